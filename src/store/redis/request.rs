//! What is sent to Redis: commands, and the keys by which a cluster finds their server.

use std::slice;

use redis::{Arg, Cmd, Pipeline};

/// Something to send.
pub(super) trait Request: Sync {
    /// Its commands, in order.
    fn commands(&self) -> Vec<&Cmd>;

    /// The pipeline that these commands are; its reply is an array of theirs.
    fn pipeline(&self) -> Option<&Pipeline> {
        None
    }

    /// What to send instead to a server that does not know the script.
    fn with_source(&self) -> Option<Cmd> {
        None
    }
}

impl Request for Cmd {
    fn commands(&self) -> Vec<&Cmd> {
        slice::from_ref(self).iter().collect()
    }
}

/// Its replies may come from several servers: none of them is ignored.
impl Request for Pipeline {
    fn commands(&self) -> Vec<&Cmd> {
        self.cmd_iter().collect()
    }

    fn pipeline(&self) -> Option<&Pipeline> {
        Some(self)
    }
}

/// The first key of a command; the channel of a message, which is sent where a key of that name would be.
pub(super) fn key_of(command: &Cmd) -> Option<&[u8]> {
    let word = |at| match command.args_iter().nth(at) {
        Some(Arg::Simple(word)) => Some(word),
        _ => None,
    };
    word(if matches!(word(0)?, b"EVALSHA" | b"EVAL") { 3 } else { 1 })
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    #[test]
    fn the_key_is_found() {
        let command = |words: &[&str]| {
            let mut command = cmd(words[0]);
            command.arg(&words[1..]);
            key_of(&command).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        assert_eq!(command(&["GET", "a"]).as_deref(), Some("a"));
        assert_eq!(command(&["EVALSHA", "hash", "2", "a", "b", "c"]).as_deref(), Some("a"));
        assert_eq!(command(&["PUBLISH", "channel", "text"]).as_deref(), Some("channel"));
        assert_eq!(command(&["PING"]), None);
    }
}
