//! The files of the page, as they are in `page/`.

/// One file.
pub struct Asset {
    path: &'static str,
    /// What it is, for the browser.
    pub media_type: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($path:literal, $media_type:expr, $file:literal) => {
        Asset { path: $path, media_type: $media_type, bytes: include_bytes!(concat!("page/", $file)) }
    };
}

static ASSETS: [Asset; 9] = [
    asset!("/", "text/html; charset=utf-8", "index.html"),
    asset!("/lab.css", "text/css; charset=utf-8", "lab.css"),
    asset!("/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("/main.js", SCRIPT, "main.js"),
    asset!("/api.js", SCRIPT, "api.js"),
    asset!("/actions.js", SCRIPT, "actions.js"),
    asset!("/layout.js", SCRIPT, "layout.js"),
    asset!("/draw.js", SCRIPT, "draw.js"),
    asset!("/panel.js", SCRIPT, "panel.js"),
];

/// The file at a path.
pub fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_served_and_none_comes_from_elsewhere() {
        for asset in &ASSETS {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for elsewhere in ["http://", "https://", "src=\"//", "href=\"//", "@import", "url("] {
                let rest = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!rest.contains(elsewhere), "{} names {elsewhere}", asset.path);
            }
            let named = text.split(['"', '\'']).filter_map(|word| {
                let word = word.strip_prefix("./").unwrap_or(word);
                let is_file = [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end));
                (is_file && !word.contains([' ', '/'])).then_some(word)
            });
            for name in named {
                assert!(find(&format!("/{name}")).is_some(), "{} names {name}", asset.path);
            }
        }
    }
}
