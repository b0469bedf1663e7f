use super::*;

fn request(id: u64) -> Kind {
    Kind::Request { id, service: 1, deadline: Instant::now() }
}

#[test]
fn the_writer_is_wanted_for_what_is_to_be_said_and_not_for_what_was_heard() {
    let mut lanes = Lanes::default();
    assert!(!lanes.wants_writing());
    let (tell, mut told) = oneshot::channel();
    let id = lanes.call(Bytes::from_static(b"?"), Waiter::Request(tell), request).unwrap();
    assert!(lanes.wants_writing());
    let mut out = BytesMut::new();
    lanes.gather(&mut out, false, Instant::now());
    assert!(!out.is_empty() && !lanes.wants_writing());
    // The answer arrives, and the caller takes back a call that is over.
    lanes.settle(id, Answer::Done(Bytes::from_static(b"!")));
    assert_eq!(told.try_recv(), Ok(Answer::Done(Bytes::from_static(b"!"))));
    assert_eq!(lanes.take_back(id), None);
    assert!(!lanes.wants_writing());
}

#[test]
fn a_call_that_is_taken_back_underway_and_a_connection_that_retires_want_the_writer() {
    let mut lanes = Lanes::default();
    let id = lanes.call(Bytes::new(), Waiter::Request(oneshot::channel().0), request).unwrap();
    lanes.gather(&mut BytesMut::new(), false, Instant::now());
    assert_eq!(lanes.take_back(id), Some(true));
    assert!(lanes.wants_writing(), "the other end is to be told");
    lanes.gather(&mut BytesMut::new(), false, Instant::now());
    assert!(!lanes.wants_writing());
    // From here on each change may be the last that it stayed for.
    lanes.retire();
    assert!(lanes.wants_writing());
}
