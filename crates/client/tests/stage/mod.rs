//! Peers played by the test: each request is given to a function that says what is answered.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    /// A header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection is closed after so many bytes of the body, or before any of the answer.
    cut: Option<Option<usize>>,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }

    pub fn ok(body: &str) -> Reply {
        Reply { body: body.into(), ..Reply::status(200) }
    }

    pub fn problem(status: u16, kind: &str) -> Reply {
        let body = format!(r#"{{"type":"urn:skein:problem:{kind}","detail":"on stage","requestId":"r"}}"#);
        Reply { body: body.into(), ..Reply::status(status) }
    }

    /// No answer: the connection is closed instead.
    pub fn cut() -> Reply {
        Reply { cut: Some(None), ..Reply::status(200) }
    }

    pub fn cut_at(self, bytes: usize) -> Reply {
        Reply { cut: Some(Some(bytes)), ..self }
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

type Play = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A peer; gone when dropped.
pub struct Peer {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    topology: Arc<Mutex<String>>,
    _task: JoinSet<()>,
}

impl Peer {
    /// Starts a peer on a free port.
    pub async fn start(play: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, topology) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(String::new())));
        let play: Arc<Play> = Arc::new(play);
        let mut task = JoinSet::new();
        let (heard, told) = (asked.clone(), topology.clone());
        task.spawn(async move {
            // Connections end with the peer.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, play.clone(), heard.clone(), told.clone()));
            }
        });
        Peer { address, asked, topology, _task: task }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What it answers about the topology.
    pub fn tell(&self, topology: &str) {
        *self.topology.lock().unwrap() = topology.to_owned();
    }

    /// Everything that was asked but the topology.
    pub fn rows(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// The answer to `GET /flock`, with one cohort.
pub fn flock<S: AsRef<str>>(cell: &str, peers: &[(&str, S)], leader: Option<&str>) -> String {
    let hosts: Vec<&str> = peers.iter().map(|(host, _)| *host).collect();
    let peers: Vec<_> = peers
        .iter()
        .map(|(host, address)| serde_json::json!({ "host": host, "httpAddr": address.as_ref() }))
        .collect();
    serde_json::json!({
        "cell": cell, "atlasVersion": 1, "catalog": {}, "peers": peers,
        "cohorts": [{ "index": 0, "leader": leader, "term": 1, "hosts": hosts }],
    })
    .to_string()
}

async fn serve(stream: TcpStream, play: Arc<Play>, heard: Arc<Mutex<Vec<Asked>>>, told: Arc<Mutex<String>>) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        let reply = if asked.target == "/flock" {
            Reply::ok(&told.lock().unwrap().clone())
        } else {
            heard.lock().unwrap().push(asked.clone());
            play(&asked)
        };
        if reply.cut == Some(None) {
            return;
        }
        let mut out = format!("HTTP/1.1 {} On stage\r\n", reply.status);
        if reply.status != 304 {
            out.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        for (name, value) in &reply.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str("\r\n");
        let end = reply.cut.flatten().unwrap_or(reply.body.len()).min(reply.body.len());
        // Whoever asked may have gone.
        let _ = stream.get_mut().write_all(&[out.as_bytes(), &reply.body[..end]].concat()).await;
        if reply.cut.is_some() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = async || {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|bytes| 0 < *bytes)?;
        Some(line.trim_end().to_owned())
    };
    let first = line().await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line().await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    asked.body = vec![0; length];
    stream.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}
