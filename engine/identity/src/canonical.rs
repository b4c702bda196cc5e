//! The canonical bytes of a space description: what the digest is taken over.
//!
//! Every field is written as `tag (u8) | length (u32 LE) | bytes`, in the order of its tag, optional fields only when
//! present. Two descriptions have equal bytes exactly when every field is equal. A new field gets a new tag and is
//! omitted at its default, so that old digests stay valid.

/// Collects tagged fields.
#[derive(Debug)]
pub(crate) struct Canonical {
    bytes: Vec<u8>,
    last_tag: u8,
}

impl Canonical {
    pub(crate) fn new(domain: &[u8]) -> Self {
        Self { bytes: domain.to_vec(), last_tag: 0 }
    }

    pub(crate) fn bytes(&mut self, tag: u8, value: &[u8]) -> &mut Self {
        assert!(tag > self.last_tag, "fields are written once, in the order of their tags");
        self.last_tag = tag;
        self.bytes.push(tag);
        let length = u32::try_from(value.len()).expect("validated descriptions are far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn text(&mut self, tag: u8, value: &str) -> &mut Self {
        self.bytes(tag, value.as_bytes())
    }

    pub(crate) fn optional_text(&mut self, tag: u8, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(tag, value),
            None => self,
        }
    }

    pub(crate) fn number(&mut self, tag: u8, value: u32) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
