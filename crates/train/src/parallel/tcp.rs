//! Processes in a ring of TCP connections.
//!
//! Process 0 listens where all know; the others tell it where they listen, hear where their successor does, and connect to that.
//! A sum goes round the ring twice: first each process completes the sum of one part, then all get all parts. (Algorithm: Patarasuk
//! and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.) Every part is summed in one place, so
//! that all processes get the same bits.
//!
//! A process that ends closes its connections, which its neighbours notice at once, and end in turn. One that falls silent is
//! given up after [`Tcp::SILENCE`], or `SUPPLE_PEER_TIMEOUT` seconds.

use super::{Communicator, Place};
use crate::Error;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A ring of processes.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    size: usize,
    silence: Duration,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    next: TcpStream,
    previous: TcpStream,
}

/// What every connection begins with.
const MAGIC: &[u8; 8] = b"supple01";

/// What fits any socket's buffers, so that it can be written before anything is read.
const SMALL: usize = 8 << 10;

/// Numbers of calls, so that processes which are out of step find out.
const SUM: u64 = 1;
const BROADCAST: u64 = 2;

impl Tcp {
    /// How long a process may be silent: longer than process 0 needs to validate.
    pub const SILENCE: Duration = Duration::from_secs(1800);

    /// How long processes wait for each other at the start.
    pub const START: Duration = Duration::from_secs(120);

    /// Meets the other processes.
    ///
    /// # Errors
    /// [`Error::Lost`] if they do not come, [`Error::Environment`] if the port is taken or the host unknown.
    pub fn new(place: &Place) -> Result<Tcp, Error> {
        let seconds = std::env::var("SUPPLE_PEER_TIMEOUT").ok().and_then(|text| text.parse().ok());
        let silence = seconds.map_or(Tcp::SILENCE, |seconds: u64| Duration::from_secs(seconds.max(1)));
        Tcp::with_timeouts(place, Tcp::START.min(silence), silence)
    }

    /// As [`new`](Self::new), waiting so long at the start, and then for a silent process.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_timeouts(place: &Place, start: Duration, silence: Duration) -> Result<Tcp, Error> {
        let deadline = Instant::now() + start;
        let Place { rank, size, .. } = *place;
        let any = if is_loopback(&place.host) { "127.0.0.1" } else { "0.0.0.0" };
        let unusable = |error: io::Error| Error::Environment(format!("cannot listen: {error}"));
        let listener = TcpListener::bind((any, 0)).map_err(unusable)?;
        let port = listener.local_addr().map_err(unusable)?.port();
        let next = match rank {
            0 => meet(place, any, port, deadline)?,
            _ => report(place, port, deadline)?,
        };
        let mut out = connect(next, deadline).map_err(lost((rank + 1) % size, start))?;
        let hello = [&MAGIC[..], &(rank as u64).to_le_bytes()].concat();
        out.write_all(&hello).map_err(lost((rank + 1) % size, start))?;
        let before = (rank + size - 1) % size;
        let previous = loop {
            let mut stream = accept(&listener, deadline).map_err(lost(before, start))?;
            // Whoever says something else is none of us.
            if read_hello(&mut stream, deadline).is_ok_and(|from| from == before as u64) {
                break stream;
            }
        };
        for stream in [&out, &previous] {
            let set = || {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(silence))?;
                stream.set_write_timeout(Some(silence))
            };
            set().map_err(unusable)?;
        }
        Ok(Tcp { rank, size, silence, ring: Mutex::new(Ring { next: out, previous }) })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> usize {
        (self.rank + 1) % self.size
    }

    fn previous(&self) -> usize {
        (self.rank + self.size - 1) % self.size
    }

    /// Writes to the next process while reading from the one before.
    fn exchange(&self, ring: &mut Ring, out: &[u8], into: &mut [u8]) -> Result<(), Error> {
        let Ring { next, previous } = ring;
        let write = |next: &mut TcpStream| next.write_all(out).map_err(lost(self.next(), self.silence));
        if out.len() <= SMALL {
            write(next)?;
            return previous.read_exact(into).map_err(lost(self.previous(), self.silence));
        }
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(next));
            let read = previous.read_exact(into).map_err(lost(self.previous(), self.silence));
            if read.is_err() {
                // The writer must not wait for a ring that is broken.
                let _ = previous.shutdown(std::net::Shutdown::Both);
            }
            let written = writer.join().unwrap_or_else(|_| Err(Error::Environment("a writer panicked".into())));
            read.and(written)
        })
    }

    /// Sees whether the process before makes the same call.
    fn agree(&self, ring: &mut Ring, call: u64, len: usize) -> Result<(), Error> {
        let own = [call.to_le_bytes(), (len as u64).to_le_bytes()].concat();
        let mut other = [0; 16];
        self.exchange(ring, &own, &mut other)?;
        if own[..] == other[..] {
            return Ok(());
        }
        Err(Error::Lost { rank: self.previous(), what: "is out of step: do all run the same command?".into() })
    }
}

impl Communicator for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        let (ring, size) = (&mut *self.ring(), self.size);
        self.agree(ring, SUM, values.len())?;
        let len = values.len();
        let part = |i: usize| (i % size) * len / size..(i % size + 1) * len / size;
        let mut arrived = vec![0.0f32; len.div_ceil(size)];
        for turn in 0..2 * (size - 1) {
            // First sums travel, each a process further a turn, then results.
            let (out, into) = (part(self.rank + 2 * size - turn), part(self.rank + 2 * size - 1 - turn));
            let arrived = &mut arrived[..into.len()];
            self.exchange(ring, bytemuck::cast_slice(&values[out]), bytemuck::cast_slice_mut(arrived))?;
            let values = &mut values[into];
            if turn < size - 1 {
                values.iter_mut().zip(arrived).for_each(|(value, arrived)| *value += *arrived);
            } else {
                values.copy_from_slice(arrived);
            }
        }
        Ok(())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let ring = &mut *self.ring();
        self.agree(ring, BROADCAST, 0)?;
        if self.rank > 0 {
            let from = lost(self.previous(), self.silence);
            let mut read = || {
                let mut len = [0; 8];
                ring.previous.read_exact(&mut len)?;
                bytes.clear();
                let len = u64::from_le_bytes(len);
                match (&ring.previous).take(len).read_to_end(bytes)? as u64 == len {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            };
            read().map_err(from)?;
        }
        if self.next() > 0 {
            let mut write = || {
                ring.next.write_all(&(bytes.len() as u64).to_le_bytes())?;
                ring.next.write_all(bytes)
            };
            write().map_err(lost(self.next(), self.silence))?;
        }
        Ok(())
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What became of a process that cannot be read from or written to.
fn lost(rank: usize, silence: Duration) -> impl Fn(io::Error) -> Error {
    move |error| {
        let what = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("was silent for {} s", silence.as_secs()),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "has ended".into()
            }
            _ => format!("cannot be reached: {error}"),
        };
        Error::Lost { rank, what }
    }
}

/// What is left until `deadline`, not zero, which would be for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn accept(listener: &TcpListener, deadline: Instant) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Connects to an address where somebody listens, or soon will.
fn connect(address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect_timeout(&address, left(deadline)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn read_hello(stream: &mut TcpStream, deadline: Instant) -> io::Result<u64> {
    stream.set_read_timeout(Some(left(deadline).min(Duration::from_secs(5))))?;
    let mut hello = [0; 16];
    stream.read_exact(&mut hello)?;
    match hello[..8] == MAGIC[..] {
        true => Ok(u64::from_le_bytes(std::array::from_fn(|i| hello[8 + i]))),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Process 0: hears from all where they listen, tells each where its successor does, and gives its own successor's address.
fn meet(place: &Place, any: &str, port: u16, deadline: Instant) -> Result<SocketAddr, Error> {
    let busy =
        |error: io::Error| Error::Environment(format!("process 0 cannot listen on port {}: {error}", place.port));
    let listener = TcpListener::bind((any, place.port)).map_err(busy)?;
    let mut others: Vec<Option<(TcpStream, SocketAddr)>> = (1..place.size).map(|_| None).collect();
    while let Some(missing) = others.iter().position(Option::is_none) {
        let stream = accept(&listener, deadline);
        let mut stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Lost { rank: missing + 1, what: "did not come".into() },
            _ => lost(missing + 1, Duration::ZERO)(error),
        })?;
        let mut hear = || {
            let rank = read_hello(&mut stream, deadline)?;
            let mut rest = [0; 16];
            stream.read_exact(&mut rest)?;
            let [size, port] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| rest[at + i])));
            Ok::<_, io::Error>((rank as usize, size as usize, SocketAddr::new(stream.peer_addr()?.ip(), port as u16)))
        };
        let Ok((rank, size, address)) = hear() else { continue };
        if size != place.size || !(1..size).contains(&rank) || others[rank - 1].is_some() {
            let what = format!("calls itself one of {size}, there are {}, or came twice", place.size);
            return Err(Error::Lost { rank, what });
        }
        others[rank - 1] = Some((stream, address));
    }
    let others: Vec<_> = others.into_iter().flatten().collect();
    for (i, (stream, _)) in others.iter().enumerate() {
        // The last one's successor is process 0, which it knows how to reach.
        let text = others.get(i + 1).map_or(format!(":{port}"), |(_, address)| address.to_string());
        let mut stream: &TcpStream = stream;
        let send =
            stream.write_all(&(text.len() as u64).to_le_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
        send.map_err(lost(i + 1, Duration::ZERO))?;
    }
    Ok(others[0].1)
}

/// Any other process: tells process 0 where it listens, and hears where its successor does.
fn report(place: &Place, port: u16, deadline: Instant) -> Result<SocketAddr, Error> {
    let unknown = |detail: String| Error::Environment(format!("host {:?} of process 0: {detail}", place.host));
    let mut addresses = (place.host.as_str(), place.port).to_socket_addrs().map_err(|e| unknown(e.to_string()))?;
    let address = addresses.find(SocketAddr::is_ipv4).ok_or_else(|| unknown("has no address".into()))?;
    let talk = || {
        let mut stream = connect(address, deadline)?;
        let numbers = [place.rank, place.size, usize::from(port)].map(|number| (number as u64).to_le_bytes());
        stream.write_all(&[&MAGIC[..], &numbers.concat()].concat())?;
        stream.set_read_timeout(Some(left(deadline)))?;
        let mut len = [0; 8];
        stream.read_exact(&mut len)?;
        let mut text = vec![0; (u64::from_le_bytes(len) as usize).min(256)];
        stream.read_exact(&mut text)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    let text = talk().map_err(lost(0, Tcp::START))?;
    let next = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(address.ip(), port)),
        None => text.parse().ok(),
    };
    next.ok_or_else(|| Error::Lost { rank: 0, what: format!("sent {text:?} for an address") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
    }

    /// Runs `work` in so many threads that stand for processes.
    fn together<T: Send>(size: usize, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
        let port = free_port();
        let (work, seconds) = (&work, Duration::from_secs(20));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..size)
                .map(|rank| {
                    let place = Place { rank, size, local_rank: rank, host: "127.0.0.1".into(), port };
                    scope.spawn(move || work(Tcp::with_timeouts(&place, seconds, seconds).unwrap()))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_the_same_everywhere() {
        for size in [2, 3, 5] {
            for len in [0, 1, 4, 7, 50_001] {
                let value = |rank: usize, i: usize| ((rank * 31 + i * 7) % 97) as f32 * 0.25;
                let all = together(size, |team| {
                    let mut values: Vec<f32> = (0..len).map(|i| value(team.rank(), i)).collect();
                    team.sum(&mut values).unwrap();
                    team.barrier().unwrap();
                    values
                });
                // Quarters of small numbers: exact in any order.
                let wanted: Vec<f32> = (0..len).map(|i| (0..size).map(|rank| value(rank, i)).sum()).collect();
                assert!(all.iter().all(|values| *values == wanted), "{size} processes, {len} values");
            }
        }
    }

    #[test]
    fn bytes_of_the_first_reach_all() {
        for len in [0, 3, 3 << 20] {
            let all = together(3, |team| {
                let mut bytes = vec![team.rank() as u8; if team.rank() == 0 { len } else { 5 }];
                team.broadcast(&mut bytes).unwrap();
                bytes
            });
            assert!(all.iter().all(|bytes| *bytes == vec![0; len]));
        }
    }

    #[test]
    fn a_process_that_ends_is_an_error_for_all_and_not_a_wait() {
        let began = Instant::now();
        let all = together(3, |team| {
            if team.rank() == 1 {
                return None;
            }
            let mut values = vec![1.0; 100_000];
            let error = (0..10).find_map(|_| team.sum(&mut values).err());
            Some(error.expect("a process is gone").to_string())
        });
        assert!(began.elapsed() < Duration::from_secs(15));
        for error in all.into_iter().flatten() {
            assert!(error.contains("process") && error.contains("has ended"), "{error}");
        }
    }

    #[test]
    fn whoever_does_not_come_or_says_nothing_is_named() {
        let place = Place { rank: 0, size: 2, local_rank: 0, host: "127.0.0.1".into(), port: free_port() };
        let short = Duration::from_millis(200);
        let error = Tcp::with_timeouts(&place, short, short).unwrap_err().to_string();
        assert!(error.contains("process 1 did not come"), "{error}");
        let port = free_port();
        let errors: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|rank| {
                    let place = Place { rank, size: 2, local_rank: rank, host: "127.0.0.1".into(), port };
                    scope.spawn(move || {
                        let team = Tcp::with_timeouts(&place, Duration::from_secs(20), Duration::from_secs(1)).unwrap();
                        if rank == 1 {
                            std::thread::sleep(Duration::from_secs(3));
                            return None;
                        }
                        team.barrier().err().map(|error| error.to_string())
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(errors.len() == 1 && errors[0].contains("process 1 was silent for 1 s"), "{errors:?}");
    }

    #[test]
    fn processes_that_do_different_things_notice() {
        let errors = together(2, |team| match team.rank() {
            0 => team.sum(&mut [1.0, 2.0]).err().map(|error| error.to_string()),
            _ => team.sum(&mut [1.0]).err().map(|error| error.to_string()),
        });
        assert!(
            errors.iter().all(|error| error.as_ref().is_some_and(|error| error.contains("out of step"))),
            "{errors:?}"
        );
    }
}
