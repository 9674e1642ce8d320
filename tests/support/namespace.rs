//! A network namespace of a test's own, wired to this machine by two cables that can be pulled.
//!
//! One cable is for the clients, one for the servers behind. A pulled cable drops what is sent, without a word to anybody.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio, id},
    sync::atomic::{AtomicU32, Ordering},
};

/// One of the cables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cable {
    /// To those who come.
    Front,
    /// To those who are asked.
    Back,
}

/// See the module. Dropped, it is gone, and its cables with it.
pub(crate) struct Namespace {
    name: String,
    number: u32,
}

impl Namespace {
    /// A namespace with both cables in, or why this machine does not allow one.
    pub(crate) fn make() -> Result<Self, String> {
        static NAMESPACES: AtomicU32 = AtomicU32::new(0);
        let number = (id() ^ (NAMESPACES.fetch_add(1, Ordering::Relaxed) << 15)) & 0x000f_ffff;
        let made = Self { name: format!("holdover-{number}"), number };
        ip(&format!("netns add {}", made.name))?;
        for cable in [Cable::Front, Cable::Back] {
            let (outer, inner, name) = (made.device(cable, 'o'), made.device(cable, 'i'), &made.name);
            ip(&format!("link add {outer} type veth peer name {inner} netns {name}"))?;
            ip(&format!("addr add {}/30 dev {outer}", made.outside(cable)))?;
            ip(&format!("-n {name} addr add {}/30 dev {inner}", made.inside(cable)))?;
            ip(&format!("link set {outer} up"))?;
            ip(&format!("-n {name} link set {inner} up"))?;
        }
        ip(&format!("-n {} link set lo up", made.name))?;
        Ok(made)
    }

    /// What stands in front of a command that is to run inside.
    pub(crate) fn entering(&self) -> [&str; 4] {
        [program(), "netns", "exec", &self.name]
    }

    /// Address of this machine at a cable.
    pub(crate) fn outside(&self, cable: Cable) -> Ipv4Addr {
        self.address(cable, 1)
    }

    /// Address of the namespace at a cable.
    pub(crate) fn inside(&self, cable: Cable) -> Ipv4Addr {
        self.address(cable, 2)
    }

    /// Pulls a cable out.
    pub(crate) fn pull(&self, cable: Cable) {
        self.set(cable, "down");
    }

    /// Puts a cable back in.
    pub(crate) fn plug(&self, cable: Cable) {
        self.set(cable, "up");
    }

    fn set(&self, cable: Cable, state: &str) {
        // At the inner end: in there is no other way out. Out here, what has no way takes the one to everywhere else.
        let (name, device) = (&self.name, self.device(cable, 'i'));
        ip(&format!("-n {name} link set {device} {state}")).expect("the device is there");
    }

    fn device(&self, cable: Cable, side: char) -> String {
        let cable = if cable == Cable::Front { 'f' } else { 'b' };
        format!("hd{:05x}{cable}{side}", self.number)
    }

    /// 10.128.0.0/9, in parts of four.
    fn address(&self, cable: Cable, host: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a80_0000 | (self.number << 3) | (u32::from(cable == Cable::Back) << 2) | host)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // If it was made only in part, so much of it is there.
        for cable in [Cable::Front, Cable::Back] {
            let _ = ip(&format!("link del {}", self.device(cable, 'o')));
        }
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// Not everybody's path has the folders of what is for root.
fn program() -> &'static str {
    ["/usr/sbin/ip", "/sbin/ip"].into_iter().find(|path| Path::new(path).exists()).unwrap_or("ip")
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new(program()).args(words.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
