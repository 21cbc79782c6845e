//! Many connections that stay open and send requests at fixed times, whatever the answers take: a lane that is late sends
//! at once, and its latency counts from when it should have sent.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// When requests are sent: `rate` a second, number `first`, `first + step`, …
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) start: Instant,
    pub(crate) rate: usize,
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) end: usize,
}

/// Sends its share of the requests, in `request`'s order, and returns how long each answer took. `check` sees each answer.
pub(crate) async fn lane<S, B>(
    mut stream: S,
    plan: Plan,
    mut request: impl FnMut(usize) -> B,
    mut check: impl FnMut(usize, &[u8]),
) -> Vec<Duration>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsRef<[u8]>,
{
    let mut times = Vec::with_capacity(plan.end / plan.step + 1);
    let mut buffer = Vec::with_capacity(16 << 10);
    for number in (plan.first..plan.end).step_by(plan.step) {
        let nanos = number as u128 * 1_000_000_000 / plan.rate as u128;
        let due = plan.start + Duration::from_nanos(u64::try_from(nanos).unwrap());
        tokio::time::sleep_until(due).await;
        stream.write_all(request(number).as_ref()).await.unwrap();
        let length = answer(&mut stream, &mut buffer).await;
        times.push(due.elapsed());
        check(number, &buffer[..length]);
        buffer.drain(..length);
    }
    times
}

/// Reads one whole answer into `buffer` and returns its length.
async fn answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> usize {
    loop {
        if let Some(length) = whole(buffer) {
            return length;
        }
        let read = stream.read_buf(buffer).await.unwrap();
        assert!(read > 0, "the agent has closed the connection");
    }
}

fn whole(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..end]).unwrap();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length.expect("an answer with its length").parse().unwrap();
    (buffer.len() >= end + length).then_some(end + length)
}

/// Tells whether `buffer` holds a whole answer.
pub(crate) fn is_whole(buffer: &[u8]) -> bool {
    whole(buffer).is_some()
}
