//! `supple launch`: several processes of one command on this machine, which train together.

use crate::interrupt;
use crate::report::{Exit, Problem, say};
use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  supple launch -n 4 train my.toml --device cuda      on four GPUs
  supple launch -n 2 train my.toml --device cpu --threads 8
  supple launch -n 4 train my.toml --device cuda --resume

Each process goes through its part of every batch, and the result is that of one process, up to rounding. What the first one says
is shown; if one ends early, all are ended, and the last words of that one are shown.

On many machines start one process a GPU with what the machines offer (srun, mpirun, torchrun): SLURM's and Open MPI's variables are
understood, and RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.";

/// Train with several processes on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    processes: u16,

    /// What each of them runs, such as: train my.toml --device cuda
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// How long processes may take to notice that one of them is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.command[0] != "train" {
        let problem = Problem::usage(format!("supple {} does not work in several processes", args.command[0]));
        return Err(problem.hint("supple launch -n 2 train RECIPE does").into());
    }
    interrupt::install();
    let mut team = Team::start(args)?;
    let mut asked = false;
    loop {
        if interrupt::asked() && !asked {
            asked = true;
            team.interrupt();
        }
        team.look()?;
        if let Some(first) = team.statuses.iter().position(|status| status.is_some_and(|status| !is_fine(status))) {
            return team.failed(first);
        }
        // Where one is done the others are about to be.
        if team.is_over() {
            let interrupted = |status: &Option<ExitStatus>| status.is_some_and(|status| !status.success());
            return Ok(if team.statuses.iter().any(interrupted) { Exit::Interrupted } else { Exit::Done });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process ended as it should: done, or interrupted.
fn is_fine(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(Exit::Interrupted as i32)
}

/// The processes. Those that still run when it goes are killed.
struct Team {
    children: Vec<Child>,
    /// Of those that have ended.
    statuses: Vec<Option<ExitStatus>>,
}

impl Team {
    fn start(args: &Args) -> anyhow::Result<Team> {
        let program = std::env::current_exe()?;
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr())?.port();
        let size = usize::from(args.processes);
        let mut team = Team { children: Vec::new(), statuses: vec![None; size] };
        for rank in 0..size {
            let mut command = Command::new(&program);
            command.args(&args.command).stdin(Stdio::null());
            for (name, value) in [("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", rank)] {
                command.env(name, value.to_string());
            }
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            if rank > 0 {
                command.stdout(Stdio::null()).stderr(Stdio::piped());
            }
            // Ctrl-C reaches this process, which passes it on once.
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            team.children.push(command.spawn()?);
        }
        Ok(team)
    }

    /// Looks who has ended.
    fn look(&mut self) -> std::io::Result<()> {
        for (child, status) in self.children.iter_mut().zip(&mut self.statuses).filter(|(_, status)| status.is_none()) {
            *status = child.try_wait()?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.statuses.iter().all(Option::is_some)
    }

    /// Asks all to save and end.
    fn interrupt(&mut self) {
        for (child, _) in self.children.iter_mut().zip(&self.statuses).filter(|(_, status)| status.is_none()) {
            #[cfg(unix)]
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT);
            #[cfg(not(unix))]
            let _ = child.kill();
        }
    }

    /// Waits a little for all to notice that one is gone, ends those that do not, and says what happened. `first` was seen first.
    fn failed(&mut self, first: usize) -> anyhow::Result<Exit> {
        let end = Instant::now() + PATIENCE;
        while !self.is_over() && Instant::now() < end {
            self.look()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that was killed is the reason for what the others say.
        let killed = self.statuses.iter().position(|status| status.is_some_and(|status| status.code().is_none()));
        let rank = killed.unwrap_or(first);
        let words = self.children[rank].stderr.take().map(|mut stderr| {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        for line in words.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty()) {
            say(&format!("process {rank}: {line}"));
        }
        let how = match self.statuses[rank].and_then(|status| status.code()) {
            // What the first one says was shown.
            Some(_) if rank == 0 => return Ok(Exit::Failed),
            Some(code) => format!("ended with status {code}"),
            None => "was killed".into(),
        };
        let problem = Problem::failed(format!("process {rank} {how}; all processes were ended"));
        Err(problem.hint("the same command with --resume goes on from the last checkpoint, if there is one").into())
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
