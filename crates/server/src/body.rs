//! The body of an answer: nothing, some bytes, or a scan under way.

use crate::scan::ScanBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// What is sent after the headers.
pub(crate) enum Body {
    Bytes(Bytes),
    Scan(Box<ScanBody>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Bytes(Bytes::new())
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
        Body::Bytes(bytes.into())
    }
}

/// The answer ends here unfinished; hyper then drops the connection without the mark of a proper end.
#[derive(Debug, thiserror::Error)]
#[error("the scan broke off after its answer had begun: {0}")]
pub(crate) struct BrokenOff(pub(crate) String);

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Body::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Scan(scan) => scan.poll_chunk(cx).map(|chunk| chunk.map(|c| c.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Bytes(bytes) => bytes.is_empty(),
            Body::Scan(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Scan(_) => SizeHint::default(),
        }
    }
}
