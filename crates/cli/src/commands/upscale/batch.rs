//! The work of a batch. One thread reads and decodes, this one enlarges, one encodes and writes, so that large machines
//! do not wait for compressors. At most one picture is decoded ahead and one written behind; when a result is large,
//! nothing runs ahead of it.

use super::Networks;
use super::outputs::{Job, Target};
use super::records::{Record, State, Written};
use super::timings::Timings;
use crate::commands::progress::Display;
use crate::report::{self, guard};
use crate::{interrupt, size};
use anyhow::Context as _;
use std::io::{self, Cursor, Write};
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use supple::picture::{self, Decoded, EncodeOptions, Limits, Picture};
use supple::{Error, enlarge};

/// Pictures to work on, and how.
pub struct Batch<'a> {
    /// The pictures.
    pub jobs: &'a [Job],
    /// Networks that reach the scale.
    pub networks: &'a Networks,
    /// What inputs may ask for.
    pub limits: Limits,
    /// How results are written.
    pub encode: EncodeOptions,
    /// Whether existing files may be replaced.
    pub overwrite: bool,
    /// Whether the timings of each picture are told.
    pub timings: bool,
    /// What is seen of it.
    pub display: &'a Display,
}

/// An enlarged picture on its way to its file.
struct Finished {
    index: usize,
    picture: Picture,
    input_size: (usize, usize),
    notes: Vec<String>,
    start: Instant,
    timings: Timings,
}

/// Results up to this size may be encoded while the next picture is computed.
const OVERLAP_BYTES: u64 = 256 << 20;

impl Batch<'_> {
    /// Does the work and tells what became of each picture, in order.
    pub fn run(&self) -> Vec<Record> {
        let record =
            |job: &Job| Record { input: job.source.name(), output: Some(job.target.name()), state: State::NotStarted };
        let records = Mutex::new(self.jobs.iter().map(record).collect::<Vec<_>>());
        let settle = |index: usize, state: State| {
            if let State::Failed(error) = &state
                && self.jobs.len() > 1
            {
                self.display.note(&format!("failed: {}", report::message(error)));
            }
            records.lock().unwrap_or_else(|e| e.into_inner())[index].state = state;
        };
        std::thread::scope(|scope| {
            // Capacities of zero make the writer take a picture only when it has nothing else.
            let (to_reader, orders) = mpsc::sync_channel::<usize>(1);
            let (to_main, decoded) = mpsc::sync_channel::<anyhow::Result<(Decoded, Duration)>>(1);
            let (to_writer, finished) = mpsc::sync_channel::<Finished>(0);
            let (to_main_written, written) = mpsc::sync_channel::<()>(1);
            scope.spawn(move || {
                for index in orders {
                    let start = Instant::now();
                    let decoded = guard(|| self.read(&self.jobs[index]));
                    if to_main.send(decoded.map(|decoded| (decoded, start.elapsed()))).is_err() {
                        return;
                    }
                }
            });
            let settle = &settle;
            scope.spawn(move || {
                for picture in finished {
                    let index = picture.index;
                    settle(index, guard(|| self.write(picture)).map_or_else(State::Failed, State::Written));
                    if to_main_written.send(()).is_err() {
                        return;
                    }
                }
            });

            let mut ordered = 0;
            let mut order_up_to = |end: usize| {
                while ordered < end.min(self.jobs.len()) && to_reader.send(ordered).is_ok() {
                    ordered += 1;
                }
            };
            let mut writing = false;
            for index in 0..self.jobs.len() {
                if interrupt::asked() {
                    break;
                }
                order_up_to(index + 1);
                let Ok(decoded) = decoded.recv() else { break };
                let (decoded, decoding) = match decoded {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        settle(index, State::Failed(error));
                        continue;
                    }
                };
                let start = Instant::now();
                let input = &decoded.picture;
                let bytes = input.bytes() as f64 * self.networks.scale.powi(2);
                let is_large = bytes > OVERLAP_BYTES as f64;
                if !is_large {
                    order_up_to(index + 2);
                }
                if writing && is_large {
                    let _ = written.recv();
                    writing = false;
                }
                let before = self.networks.stages();
                match guard(|| self.enlarge(index, &decoded)) {
                    Ok(picture) => {
                        let timings = Timings::new(decoding, start.elapsed(), before, self.networks.stages());
                        let input_size = (input.width(), input.height());
                        if writing {
                            let _ = written.recv();
                        }
                        let picture = Finished { index, picture, input_size, notes: decoded.notes, start, timings };
                        writing = to_writer.send(picture).is_ok();
                        if writing && is_large {
                            let _ = written.recv();
                            writing = false;
                        }
                    }
                    Err(error) if matches!(error.downcast_ref(), Some(Error::Cancelled)) => {
                        settle(index, State::Dropped);
                        break;
                    }
                    Err(error) => settle(index, State::Failed(error)),
                }
            }
        });
        records.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    fn read(&self, job: &Job) -> anyhow::Result<Decoded> {
        // Better now than after the work.
        if let Target::File(path) = &job.target
            && !self.overwrite
            && path.symlink_metadata().is_ok()
        {
            return Err(Error::Exists { path: path.clone() }.into());
        }
        job.source.read(&self.limits)
    }

    fn enlarge(&self, index: usize, decoded: &Decoded) -> anyhow::Result<Picture> {
        let job = &self.jobs[index];
        if let Target::File(path) = &job.target {
            check_writable(path)?;
        }
        let picture = &decoded.picture;
        self.display.begin(index, &job.source.name());
        let network = |scale: usize| {
            let known = self.networks.loaded.get(&scale).cloned();
            known.ok_or_else(|| Error::BadOption(format!("no network of scale {scale} was loaded")))
        };
        let mut progress = |progress: supple::Progress| {
            self.display.advance(progress.pixels_done, progress.pixels_total);
            !interrupt::asked()
        };
        let enlarged = enlarge(picture, self.networks.scale, &self.networks.available, &network, &mut progress);
        match enlarged {
            Err(Error::Cancelled) => Err(Error::Cancelled.into()),
            other => other.with_context(|| job.source.name()),
        }
    }

    fn write(&self, finished: Finished) -> anyhow::Result<Written> {
        let job = &self.jobs[finished.index];
        let (picture, format) = (&finished.picture, job.format);
        let mut notes = finished.notes;
        let mut timings = finished.timings;
        let encoding = Instant::now();
        notes.extend(match &job.target {
            Target::File(path) => picture::save(path, picture, format, &self.encode, self.overwrite)?,
            Target::Stdout => {
                let mut bytes = Cursor::new(Vec::new());
                let notes = picture::encode(picture, format, &self.encode, &mut bytes)?;
                let mut stdout = io::stdout().lock();
                let sent = stdout.write_all(bytes.get_ref()).and_then(|()| stdout.flush());
                sent.context("cannot write to standard output")?;
                notes
            }
        });
        timings.encode = encoding.elapsed().as_secs_f64();
        let (width, height) = finished.input_size;
        let seconds = finished.start.elapsed().as_secs_f64();
        let (output_width, output_height) = (picture.width(), picture.height());
        let (input, output) = (job.source.name(), job.target.name());
        let time = size::seconds(seconds);
        self.display.note(&format!("{input} {width}x{height} -> {output} {output_width}x{output_height}, {time}"));
        if self.timings {
            self.display.note(&format!("  {timings}"));
        }
        for note in &notes {
            self.display.note(&format!("  note: {note}"));
        }
        let timings = self.timings.then_some(timings);
        Ok(Written { width, height, output_width, output_height, seconds, timings, notes })
    }
}

/// Makes the folder of a result and sees whether files can be made in it, before much time is spent on the result.
fn check_writable(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |action| move |source| Error::Io { path: folder.into(), action, source };
    if folder.exists() && !folder.is_dir() {
        return Err(failed("write into it")(io::ErrorKind::NotADirectory.into()));
    }
    std::fs::create_dir_all(folder).map_err(failed("make the folder"))?;
    tempfile::tempfile_in(folder).map(drop).map_err(failed("write into the folder"))
}
