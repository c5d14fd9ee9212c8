//! The asking side of the bare-socket exchange.

use super::{CHUNK, KIND_CAPSULE, KIND_DATA, Shape};
use crate::error::{Error, Result};
use crate::net::{Address, connect, unless_blocked, wait};
use crate::stats::Latency;
use crate::sys::{self, CpuTime};
use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Messages handed to the kernel at once where they are of two kinds.
const BATCH: usize = 64;
/// Without a byte for this long the peer counts as dead.
const SILENCE: Duration = Duration::from_secs(5);

/// What the exchange reached.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Time of each request, from when it was handed to the socket to its last byte.
    pub latency: Latency,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// CPU time of the driving thread.
    pub cpu: CpuTime,
}

impl Outcome {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.latency.count() as f64 / self.seconds.max(1e-9)
    }
}

/// Exchanges `shape` with the peer at `to` for `time`, keeping `depth` requests outstanding on each of `connections`
/// connections, on the calling thread (pinned to `core` where given), polling when `spin`.
///
/// # Errors
/// When the peer is not there, falls silent or closes.
pub fn drive(
    to: &Address,
    shape: Shape,
    depth: u32,
    connections: u32,
    time: Duration,
    core: Option<usize>,
    spin: bool,
) -> Result<Outcome> {
    let shape = shape.check()?;
    if let Some(core) = core {
        sys::pin(core).map_err(|source| Error::Io { doing: "pinning to a core", source })?;
    }
    let mut open = (0..connections)
        .map(|_| Connection::new(connect(to, SILENCE)?, shape, depth as usize))
        .collect::<Result<Vec<_>>>()?;
    let mut latency = Latency::default();
    let mut buffer = vec![0; CHUNK];
    let cpu = CpuTime::of_thread();
    let start = Instant::now();
    let mut last = start;
    let mut idle = 0u32;
    loop {
        let mut busy = false;
        for c in &mut open {
            busy |= c.turn(&mut buffer, &mut latency)?;
        }
        idle = if busy { 0 } else { idle + 1 };
        if !busy && !spin {
            let sockets = open.iter().map(|c| (c.stream.as_fd(), c.owes()));
            wait(sockets, Duration::from_millis(50), &mut Vec::new()).map_err(|e| Error::io("waiting", e))?;
        }
        if busy || idle.is_multiple_of(256) || !spin {
            let now = Instant::now();
            if busy {
                last = now;
            }
            if now - last > SILENCE {
                return Err(Error::Timeout { what: "the peer's answer".into(), after: SILENCE });
            }
            // Without a single answer nothing was measured: the first is waited for, as long as for any other.
            let overdue = now - start >= time + SILENCE;
            if now - start >= time && (latency.count() > 0 || overdue) {
                break;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { latency, seconds, cpu: CpuTime::of_thread().since(cpu) })
}

struct Connection {
    stream: TcpStream,
    shape: Shape,
    /// When each outstanding request was handed over, oldest first: answers come in order.
    started: VecDeque<Instant>,
    /// Bytes received of the current answer.
    got: usize,
    /// What answers will be, oldest first: `true` for an R2T. Unused without R2Ts.
    expect: VecDeque<bool>,
    /// Messages to send, `true` for data; `sent` bytes of the first are gone. Unused without R2Ts.
    queue: VecDeque<bool>,
    sent: usize,
    /// Bytes to send. Unused with R2Ts.
    owed: usize,
    /// What is sent: messages one after another, or one capsule and one piece of data.
    payload: Vec<u8>,
}

impl Connection {
    fn new(mut stream: TcpStream, shape: Shape, depth: usize) -> Result<Connection> {
        // The socket's buffer is empty, so that these few bytes always fit.
        stream.write_all(&shape.hello()).map_err(|e| Error::io("greeting the peer", e))?;
        let mut payload = vec![0xa5; CHUNK.max((shape.request + shape.asked) as usize) + 1];
        payload[0] = KIND_CAPSULE;
        payload[shape.request as usize] = KIND_DATA;
        let mut c = Connection {
            stream,
            shape,
            started: VecDeque::with_capacity(depth),
            got: 0,
            expect: VecDeque::with_capacity(depth),
            queue: VecDeque::with_capacity(depth),
            sent: 0,
            owed: 0,
            payload,
        };
        c.start(depth, Instant::now());
        Ok(c)
    }

    /// Lets `n` more requests start.
    fn start(&mut self, n: usize, now: Instant) {
        for _ in 0..n {
            self.started.push_back(now);
        }
        if self.shape.asked == 0 {
            self.owed += n * self.shape.request as usize;
        } else {
            self.queue.extend(std::iter::repeat_n(false, n));
        }
    }

    fn owes(&self) -> bool {
        self.owed > 0 || !self.queue.is_empty()
    }

    fn turn(&mut self, buffer: &mut [u8], latency: &mut Latency) -> Result<bool> {
        let mut busy = self.send()?;
        if let Some(n) = unless_blocked(self.stream.read(buffer)).map_err(|e| Error::io("reading", e))? {
            if n == 0 {
                return Err(Error::Closed { doing: "exchanging bytes".into() });
            }
            busy = true;
            let now = Instant::now();
            let done = if self.shape.asked == 0 {
                self.got += n;
                let done = self.got / self.shape.response as usize;
                self.got %= self.shape.response as usize;
                done
            } else {
                self.count_asked(n)
            };
            for _ in 0..done {
                if let Some(began) = self.started.pop_front() {
                    latency.record((now - began).as_nanos() as u64);
                }
            }
            self.start(done, now);
            self.send()?;
        }
        Ok(busy)
    }

    /// Counts `n` received bytes where answers are R2Ts and responses, equally long; says how many were responses.
    fn count_asked(&mut self, n: usize) -> usize {
        self.got += n;
        let mut done = 0;
        while self.got >= self.shape.response as usize {
            self.got -= self.shape.response as usize;
            match self.expect.pop_front() {
                Some(true) => self.queue.push_back(true),
                _ => done += 1,
            }
        }
        done
    }

    fn send(&mut self) -> Result<bool> {
        if self.shape.asked == 0 { self.send_alike() } else { self.send_two_kinds() }
    }

    fn send_alike(&mut self) -> Result<bool> {
        let mut busy = false;
        while self.owed > 0 {
            let bytes = &self.payload[..self.owed.min(CHUNK)];
            let Some(n) = unless_blocked(self.stream.write(bytes)).map_err(|e| Error::io("sending", e))?
            else {
                break;
            };
            self.owed -= n;
            busy = true;
        }
        Ok(busy)
    }

    fn send_two_kinds(&mut self) -> Result<bool> {
        let mut busy = false;
        let (capsule, data) = self.payload.split_at(self.shape.request as usize);
        let data = &data[..self.shape.asked as usize];
        while !self.queue.is_empty() {
            let mut parts = [IoSlice::new(&[]); BATCH];
            let mut count = 0;
            for (&is_data, part) in self.queue.iter().zip(&mut parts) {
                let whole = if is_data { data } else { capsule };
                *part = IoSlice::new(if count == 0 { &whole[self.sent..] } else { whole });
                count += 1;
            }
            let sent = unless_blocked(self.stream.write_vectored(&parts[..count]));
            let Some(mut n) = sent.map_err(|e| Error::io("sending", e))? else { break };
            busy = true;
            while let Some(&is_data) = self.queue.front() {
                let left = if is_data { data.len() } else { capsule.len() } - self.sent;
                if n < left {
                    self.sent += n;
                    break;
                }
                n -= left;
                self.sent = 0;
                self.queue.pop_front();
                self.expect.push_back(!is_data);
            }
        }
        Ok(busy)
    }
}
