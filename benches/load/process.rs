//! Processes of the systems under test: started on their core, measured through /proc, and ended by their id.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// A process that ends when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// Which CPUs who runs on. With one CPU only, or without `taskset`, everybody runs everywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cores {
    pub(crate) system: Option<String>,
    pub(crate) rest: Option<String>,
}

impl Cores {
    /// Gives the first allowed CPU to the system under test, and moves this process to the others.
    pub(crate) fn split() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let cpus = cpu_list(allowed.trim()).context("the list of allowed CPUs")?;
        let taskset = Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let [first, others @ ..] = &cpus[..] else { return Ok(Self::default()) };
        if others.is_empty() || !taskset.is_ok_and(|status| status.success()) {
            return Ok(Self::default());
        }
        let rest = others.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let moved = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", &rest, &std::process::id().to_string()])
            .stdout(Stdio::null())
            .status()?;
        ensure!(moved.success(), "taskset cannot move the harness to CPUs {rest}");
        Ok(Self { system: Some(first.to_string()), rest: Some(rest) })
    }
}

/// Reads `0-2,5`.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(cpus)
}

impl Process {
    /// Starts `command` on `cpus`; what it writes goes to `log`.
    pub(crate) fn start(command: &Command, cpus: Option<&str>, log: &Path) -> Result<Self> {
        let mut pinned = match cpus {
            Some(cpus) => {
                // It becomes the command, under the same process id.
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", cpus]).arg(command.get_program());
                taskset
            }
            None => Command::new(command.get_program()),
        };
        pinned.args(command.get_args());
        pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let file = File::create(log)?;
        pinned.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = pinned.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails, with what it wrote, if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("ended with {status}: {}", fs::read_to_string(&self.log)?.trim());
        }
        Ok(())
    }

    /// CPU time that all its threads have taken, from the scheduler's books (nanoseconds, where `stat` has ticks of 10 ms).
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Files and sockets that it has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Resident bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

/// CPU time that this process has taken itself: backend and client.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu_of(std::process::id())
}

fn cpu_of(process: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while they are listed.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += schedstat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
