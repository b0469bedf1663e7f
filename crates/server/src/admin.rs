//! What an administrator does to peers: hand over what a peer leads, take it back, give a lost directory up.

use crate::body::Body;
use crate::dispatch::State;
use crate::headers::clip;
use crate::params::{Place, decoded};
use crate::problem::{Answer, Problem};
use crate::reply::whole;
use http::Response;
use skein_model::HostId;

const JSON: &str = "application/json";

/// Makes this peer hand over what it leads, or lead again. Answers at once; `/admin/status` shows how far it is.
pub(crate) fn drain(state: &State, on: bool) -> Response<Body> {
    state.cell.drain(on);
    whole(JSON, format!("{{\"host\":\"{}\",\"draining\":{on}}}\n", state.cell.host()))
}

/// Makes the cell forget the directory of a host, so that the host may come back with an empty one.
pub(crate) async fn forget(state: &State, query: Option<&str>) -> Answer {
    let host = host(query)?;
    let forgotten = state.cell.forget(host, state.deadline()).await?;
    Ok(whole(JSON, format!("{{\"host\":\"{host}\",\"forgotten\":{forgotten}}}\n")))
}

/// The parameter `host`.
fn host(query: Option<&str>) -> Answer<HostId> {
    let mut pairs = query.unwrap_or_default().split('&');
    let Some(raw) = pairs.find_map(|pair| pair.strip_prefix("host=")) else {
        return Err(Problem::bad_request(
            "The parameter host is missing, as in /admin/forget?host=0xF47F4AA7602F3857. Nothing changed.",
        ));
    };
    let text = decoded("the parameter host", raw, Place::Query)?;
    let text = String::from_utf8_lossy(&text);
    text.parse().map_err(|why| {
        Problem::bad_request(format!("Bad host ID: {} ({why}). Nothing changed.", clip(&text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_by_its_id_in_any_spelling() {
        for query in ["host=0xF", "x=1&host=15", "host=%23f", "host=0xF&host=0x1"] {
            assert_eq!(host(Some(query)).unwrap(), HostId(15), "{query}");
        }
        for query in [None, Some(""), Some("hosts=1"), Some("host="), Some("host=me"), Some("host=%zz")] {
            assert!(host(query).is_err(), "{query:?}");
        }
    }
}
