//! The route table: which paths are served on which port, and with which methods. `/openapi.json` is built from the
//! same table.

use http::Method;
use skein_model::schema::RESERVED_NAMES;

/// A family of paths that one handler answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A row or a scan under `/table/`, by the table's ID or name.
    Table,
    /// A row of a named table.
    Row,
    /// A scan of a named table.
    Scan,
    BatchWrite,
    TxStatus,
    Atlas,
    Peers,
    Hosts,
    Schema,
    Tables,
    Status,
    /// All keys of the users' store in the catalog.
    Catalog,
    CatalogKey,
    Flock,
    Drain,
    Rejoin,
    Forget,
    Ping,
    OpenApi,
    Live,
    Ready,
    Metrics,
}

/// A port of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Data,
    Admin,
}

/// A method that some route has, or [`Verb::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    Other,
}

impl Verb {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    pub(crate) fn of(method: &Method) -> Verb {
        match *method {
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            Method::PUT => Verb::Put,
            Method::POST => Verb::Post,
            Method::DELETE => Verb::Delete,
            Method::OPTIONS => Verb::Options,
            _ => Verb::Other,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
            Verb::Options => "OPTIONS",
            Verb::Other => "other",
        }
    }
}

/// One line of the route table.
#[derive(Debug)]
pub(crate) struct RouteSpec {
    pub(crate) route: Route,
    /// Its paths. A `{…}` stands for one segment that is not empty; all paths may also end in a slash, but for those
    /// that end in a key.
    pub(crate) paths: &'static [&'static str],
    pub(crate) ports: &'static [Port],
    /// Its methods; every route also answers OPTIONS.
    pub(crate) verbs: &'static [Verb],
    /// The value of `Allow`.
    pub(crate) allow: &'static str,
}

const BOTH: &[Port] = &[Port::Data, Port::Admin];
const DATA: &[Port] = &[Port::Data];
const ADMIN: &[Port] = &[Port::Admin];
const READ: &[Verb] = &[Verb::Get, Verb::Head];
const READ_PUT: &[Verb] = &[Verb::Get, Verb::Head, Verb::Put];
const ROW: &[Verb] = &[Verb::Get, Verb::Head, Verb::Put, Verb::Post, Verb::Delete];
const POST: &[Verb] = &[Verb::Post];
const ALLOW_POST: &str = "POST, OPTIONS";
const ALLOW_READ: &str = "GET, HEAD, OPTIONS";
const ALLOW_READ_PUT: &str = "GET, HEAD, PUT, OPTIONS";
const ALLOW_ROW: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

const fn read(route: Route, paths: &'static [&'static str], ports: &'static [Port]) -> RouteSpec {
    RouteSpec { route, paths, ports, verbs: READ, allow: ALLOW_READ }
}

const fn read_put(route: Route, paths: &'static [&'static str], ports: &'static [Port]) -> RouteSpec {
    RouteSpec { route, paths, ports, verbs: READ_PUT, allow: ALLOW_READ_PUT }
}

const fn post(route: Route, paths: &'static [&'static str], ports: &'static [Port]) -> RouteSpec {
    RouteSpec { route, paths, ports, verbs: POST, allow: ALLOW_POST }
}

/// Everything that is served.
pub(crate) static ROUTES: [RouteSpec; 23] = [
    RouteSpec { route: Route::Table, paths: &["/table/{table}"], ports: DATA, verbs: ROW, allow: ALLOW_ROW },
    RouteSpec { route: Route::Row, paths: &["/{name}/{key}"], ports: DATA, verbs: ROW, allow: ALLOW_ROW },
    read(Route::Scan, &["/{name}"], DATA),
    RouteSpec {
        route: Route::CatalogKey,
        paths: &["/catalog/{catalogKey}"],
        ports: DATA,
        verbs: &[Verb::Get, Verb::Head, Verb::Put, Verb::Delete],
        allow: "GET, HEAD, PUT, DELETE, OPTIONS",
    },
    post(Route::BatchWrite, &["/batch-write"], DATA),
    read(Route::Catalog, &["/catalog"], DATA),
    read(Route::Flock, &["/flock"], DATA),
    read(Route::TxStatus, &["/tx-status"], DATA),
    read_put(Route::Atlas, &["/atlas"], DATA),
    read_put(Route::Atlas, &["/admin/atlas", "/admin/treode/atlas"], ADMIN),
    read(Route::Peers, &["/peers"], DATA),
    read(Route::Hosts, &["/hosts"], DATA),
    read_put(Route::Schema, &["/admin/schema", "/admin/treode/schema"], ADMIN),
    read(Route::Tables, &["/admin/tables", "/admin/treode/tables"], ADMIN),
    read(Route::Status, &["/admin/status"], ADMIN),
    post(Route::Drain, &["/admin/drain"], ADMIN),
    post(Route::Rejoin, &["/admin/rejoin"], ADMIN),
    post(Route::Forget, &["/admin/forget"], ADMIN),
    read(Route::Ping, &["/admin/ping"], ADMIN),
    read(Route::OpenApi, &["/openapi.json"], BOTH),
    read(Route::Live, &["/health/live"], BOTH),
    read(Route::Ready, &["/health/ready"], BOTH),
    read(Route::Metrics, &["/metrics"], BOTH),
];

/// A route that a path leads to, and the parts of the path that it is about, not percent-decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) spec: &'static RouteSpec,
    /// The segment that names the table; empty for routes without one.
    pub(crate) table: &'a str,
    /// The segment that is the key; empty for routes without one.
    pub(crate) key: &'a str,
}

/// Finds the route of a path as it stood in the request, up to the `?`.
pub(crate) fn find(port: Port, path: &str) -> Option<Found<'_>> {
    let rest = path.strip_prefix('/')?;
    let (first, second) = match rest.split_once('/') {
        Some((first, second)) => (first, second),
        None => (rest, ""),
    };
    if first.is_empty() {
        return None;
    }
    if port == Port::Data {
        if first == "table" {
            let table = second.strip_suffix('/').unwrap_or(second);
            let whole = !table.is_empty() && !table.contains('/');
            return whole.then_some(Found { spec: spec(Route::Table), table, key: "" });
        }
        if first == "catalog" && !second.is_empty() {
            let whole = !second.contains('/');
            return whole.then_some(Found { spec: spec(Route::CatalogKey), table: "", key: second });
        }
        if !RESERVED_NAMES.contains(&first) {
            return match second {
                "" => Some(Found { spec: spec(Route::Scan), table: first, key: "" }),
                key if key.contains('/') => None,
                key => Some(Found { spec: spec(Route::Row), table: first, key }),
            };
        }
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let fixed = ROUTES.iter().find(|spec| spec.ports.contains(&port) && spec.paths.contains(&path))?;
    Some(Found { spec: fixed, table: "", key: "" })
}

/// The table's lines for rows, scans and keys, which are found without looking through it.
fn spec(route: Route) -> &'static RouteSpec {
    match route {
        Route::Table => &ROUTES[0],
        Route::Row => &ROUTES[1],
        Route::CatalogKey => &ROUTES[3],
        _ => &ROUTES[2],
    }
}

/// What the metrics call a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Row,
    Scan,
    BatchWrite,
    TxStatus,
    Atlas,
    Peers,
    Hosts,
    Schema,
    Tables,
    Status,
    Catalog,
    CatalogKey,
    Flock,
    Drain,
    Rejoin,
    Forget,
    Ping,
    OpenApi,
    Live,
    Ready,
    Metrics,
    Unknown,
}

impl Label {
    /// All of them; `ALL[label as usize]` is the label.
    pub(crate) const ALL: [Label; 22] = [
        Label::Row,
        Label::Scan,
        Label::BatchWrite,
        Label::TxStatus,
        Label::Atlas,
        Label::Peers,
        Label::Hosts,
        Label::Schema,
        Label::Tables,
        Label::Status,
        Label::Catalog,
        Label::CatalogKey,
        Label::Flock,
        Label::Drain,
        Label::Rejoin,
        Label::Forget,
        Label::Ping,
        Label::OpenApi,
        Label::Live,
        Label::Ready,
        Label::Metrics,
        Label::Unknown,
    ];

    /// The label of a route; [`Route::Table`] counts as rows here, the handler knows better.
    pub(crate) fn of(route: Route) -> Label {
        match route {
            Route::Table | Route::Row => Label::Row,
            Route::Scan => Label::Scan,
            Route::BatchWrite => Label::BatchWrite,
            Route::TxStatus => Label::TxStatus,
            Route::Atlas => Label::Atlas,
            Route::Peers => Label::Peers,
            Route::Hosts => Label::Hosts,
            Route::Schema => Label::Schema,
            Route::Tables => Label::Tables,
            Route::Status => Label::Status,
            Route::Catalog => Label::Catalog,
            Route::CatalogKey => Label::CatalogKey,
            Route::Flock => Label::Flock,
            Route::Drain => Label::Drain,
            Route::Rejoin => Label::Rejoin,
            Route::Forget => Label::Forget,
            Route::Ping => Label::Ping,
            Route::OpenApi => Label::OpenApi,
            Route::Live => Label::Live,
            Route::Ready => Label::Ready,
            Route::Metrics => Label::Metrics,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Label::Row => "row",
            Label::Scan => "scan",
            Label::BatchWrite => "batch-write",
            Label::TxStatus => "tx-status",
            Label::Atlas => "atlas",
            Label::Peers => "peers",
            Label::Hosts => "hosts",
            Label::Schema => "schema",
            Label::Tables => "tables",
            Label::Status => "status",
            Label::Catalog => "catalog",
            Label::CatalogKey => "catalog-key",
            Label::Flock => "flock",
            Label::Drain => "drain",
            Label::Rejoin => "rejoin",
            Label::Forget => "forget",
            Label::Ping => "ping",
            Label::OpenApi => "openapi",
            Label::Live => "live",
            Label::Ready => "ready",
            Label::Metrics => "metrics",
            Label::Unknown => "unknown",
        }
    }

    /// Whether answers carry `Server-TxClock`.
    pub(crate) fn is_about_rows(self) -> bool {
        matches!(self, Label::Row | Label::Scan | Label::BatchWrite | Label::TxStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(path: &str) -> Option<(Route, &str, &str)> {
        find(Port::Data, path).map(|f| (f.spec.route, f.table, f.key))
    }

    fn admin(path: &str) -> Option<Route> {
        find(Port::Admin, path).map(|f| f.spec.route)
    }

    #[test]
    fn both_spellings_lead_to_rows_and_scans() {
        assert_eq!(data("/table/0x1"), Some((Route::Table, "0x1", "")));
        assert_eq!(data("/table/fruit/"), Some((Route::Table, "fruit", "")));
        assert_eq!(data("/fruit"), Some((Route::Scan, "fruit", "")));
        assert_eq!(data("/fruit/"), Some((Route::Scan, "fruit", "")));
        assert_eq!(data("/fruit/apple"), Some((Route::Row, "fruit", "apple")));
        assert_eq!(data("/fruit/a%2Fb"), Some((Route::Row, "fruit", "a%2Fb")));
    }

    #[test]
    fn paths_with_too_many_or_empty_segments_lead_nowhere() {
        for path in [
            "",
            "/",
            "//",
            "/fruit/apple/",
            "/fruit/a/b",
            "//apple",
            "/table",
            "/table/",
            "/table/0x1/apple",
            "*",
        ] {
            assert_eq!(data(path), None, "{path}");
        }
    }

    #[test]
    fn the_servers_own_names_are_not_tables() {
        assert_eq!(data("/batch-write"), Some((Route::BatchWrite, "", "")));
        assert_eq!(data("/tx-status/"), Some((Route::TxStatus, "", "")));
        assert_eq!(data("/catalog/"), Some((Route::Catalog, "", "")));
        assert_eq!(data("/catalog/a%2Fb"), Some((Route::CatalogKey, "", "a%2Fb")));
        for path in [
            "/catalog/a/b",
            "/catalog//",
            "/flock/x",
            "/batch-write/x",
            "/tx-status/x",
            "/peers/x",
            "/health",
            "/admin/schema",
            "/favicon.ico",
        ] {
            assert_eq!(data(path), None, "{path}");
        }
    }

    #[test]
    fn the_admin_port_serves_no_rows() {
        assert_eq!(admin("/admin/treode/schema"), Some(Route::Schema));
        assert_eq!(admin("/admin/atlas/"), Some(Route::Atlas));
        assert_eq!(admin("/health/ready"), Some(Route::Ready));
        for path in ["/fruit/apple", "/table/0x1", "/atlas", "/batch-write"] {
            assert_eq!(admin(path), None, "{path}");
        }
    }

    #[test]
    fn every_fixed_path_is_found_under_its_own_route() {
        for spec in &ROUTES {
            for port in spec.ports {
                for path in spec.paths.iter().filter(|p| !p.contains('{')) {
                    let found = find(*port, path).unwrap();
                    assert!(std::ptr::eq(found.spec, spec), "{path}");
                    let first = path[1..].split('/').next().unwrap();
                    assert!(RESERVED_NAMES.contains(&first), "{first} has to be a reserved name");
                }
            }
        }
    }

    #[test]
    fn allow_lists_exactly_the_methods_of_the_route() {
        for spec in &ROUTES {
            let names: Vec<_> = spec.verbs.iter().chain([&Verb::Options]).map(|v| v.name()).collect();
            assert_eq!(spec.allow, names.join(", "));
        }
    }

    #[test]
    fn labels_are_where_their_number_says() {
        for (i, label) in Label::ALL.iter().enumerate() {
            assert_eq!(*label as usize, i);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic_and_parts_are_parts(path in "/?[a-z%/.{}-]{0,30}") {
            if let Some(found) = find(Port::Data, &path) {
                prop_assert!(path.contains(found.table) && path.contains(found.key));
                prop_assert!(!found.key.contains('/'));
            }
            let _ = find(Port::Admin, &path);
        }
    }
}
