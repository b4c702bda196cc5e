//! Whether what is followed and published can be.

use super::Check;
use crate::zmtp::Endpoint;

/// Longest name of an engine, in bytes.
const NAME_BYTES_MAX: usize = 32;

impl Check<'_> {
    pub(super) fn engine_events(&mut self) {
        let config = self.config;
        for (name, section) in &config.engine_events {
            let path = |key: &str| format!("engine_events.{name}.{key}");
            let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
            if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_good) {
                let rule = format!("an engine's name has 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _");
                self.tell(&path("endpoint"), format!("[engine_events.{name}]: {rule}"));
            }
            for (key, set, what) in [
                ("endpoint", &section.endpoint, "where the engine publishes"),
                ("space", &section.space, "the space its blocks belong to (`kvtier spaces list`)"),
            ] {
                if set.is_none() {
                    self.tell(&path(key), format!("{} is not set; name {what}, or remove the section", path(key)));
                }
            }
            for (key, text) in [("endpoint", &section.endpoint), ("replay_endpoint", &section.replay_endpoint)] {
                let Some(endpoint) = self.endpoint(&path(key), text.as_deref()) else { continue };
                if endpoint.of_rank((section.ranks - 1) as u16).is_none() {
                    let message =
                        format!("{} has no port for each of {} ranks; use tcp://host:port", path(key), section.ranks);
                    self.tell(&path(key), message);
                }
                if key == "endpoint" && section.bind {
                    self.reachable(&path(key), &endpoint);
                }
            }
        }
        let publish = &config.publish_events;
        for (key, text) in [("endpoint", &publish.endpoint), ("replay_endpoint", &publish.replay_endpoint)] {
            let path = format!("publish_events.{key}");
            if let Some(endpoint) = self.endpoint(&path, text.as_deref()) {
                self.reachable(&path, &endpoint);
            }
        }
        if publish.replay_endpoint.is_some() && publish.endpoint.is_none() {
            let message = "publish_events.replay_endpoint is set but publish_events.endpoint is not; set both";
            self.tell("publish_events.replay_endpoint", message.to_owned());
        }
    }

    fn endpoint(&mut self, path: &str, text: Option<&str>) -> Option<Endpoint> {
        match Endpoint::parse(text?) {
            Ok(endpoint) => Some(endpoint),
            Err(why) => {
                self.tell(path, format!("{path}: {why}"));
                None
            }
        }
    }

    /// ZMQ is neither encrypted nor authenticated here.
    fn reachable(&mut self, path: &str, endpoint: &Endpoint) {
        if !endpoint.is_local() && !self.config.listen.insecure {
            let message = format!(
                "{path} = \"{endpoint}\" can be reached from other machines without TLS; use ipc:// or 127.0.0.1, or \
                 accept it with listen.insecure = true"
            );
            self.tell(path, message);
        }
    }
}
