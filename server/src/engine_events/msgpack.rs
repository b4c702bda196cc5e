//! Reading MessagePack without building it: a cursor over a payload.
//!
//! What is asked for is read, what is not is skipped. Nothing is allocated and nothing recurses, so that hostile bytes cost
//! no more than their length.

use rmp::Marker;

/// Why bytes are not what was expected: what is wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads on from the front of a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(&'a [u8]);

/// One value; of an array or map only how many values follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Nil,
    Bool,
    Unsigned(u64),
    /// Below zero.
    Signed(i64),
    Float,
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    Array(u32),
    Map(u32),
    Extension,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("it ends in the middle of a value"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn count(&mut self, bytes: usize) -> Result<u32, Malformed> {
        Ok(self.number(bytes)? as u32)
    }

    fn run(&mut self, length_bytes: usize) -> Result<&'a [u8], Malformed> {
        let length = self.number(length_bytes)?;
        self.take(length as usize)
    }

    /// The next value.
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let marker = Marker::from_u8(self.take(1)?[0]);
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::True | Marker::False => Value::Bool,
            Marker::FixPos(number) => Value::Unsigned(number.into()),
            Marker::FixNeg(number) => Value::Signed(number.into()),
            Marker::U8 => Value::Unsigned(self.number(1)?),
            Marker::U16 => Value::Unsigned(self.number(2)?),
            Marker::U32 => Value::Unsigned(self.number(4)?),
            Marker::U64 => Value::Unsigned(self.number(8)?),
            Marker::I8 => signed(i64::from(self.number(1)? as i8)),
            Marker::I16 => signed(i64::from(self.number(2)? as i16)),
            Marker::I32 => signed(i64::from(self.number(4)? as i32)),
            Marker::I64 => signed(self.number(8)? as i64),
            Marker::F32 => self.take(4).map(|_| Value::Float)?,
            Marker::F64 => self.take(8).map(|_| Value::Float)?,
            Marker::FixStr(length) => Value::Text(self.take(length.into())?),
            Marker::Str8 => Value::Text(self.run(1)?),
            Marker::Str16 => Value::Text(self.run(2)?),
            Marker::Str32 => Value::Text(self.run(4)?),
            Marker::Bin8 => Value::Bytes(self.run(1)?),
            Marker::Bin16 => Value::Bytes(self.run(2)?),
            Marker::Bin32 => Value::Bytes(self.run(4)?),
            Marker::FixArray(count) => Value::Array(count.into()),
            Marker::Array16 => Value::Array(self.count(2)?),
            Marker::Array32 => Value::Array(self.count(4)?),
            Marker::FixMap(count) => Value::Map(count.into()),
            Marker::Map16 => Value::Map(self.count(2)?),
            Marker::Map32 => Value::Map(self.count(4)?),
            Marker::FixExt1 => self.take(2).map(|_| Value::Extension)?,
            Marker::FixExt2 => self.take(3).map(|_| Value::Extension)?,
            Marker::FixExt4 => self.take(5).map(|_| Value::Extension)?,
            Marker::FixExt8 => self.take(9).map(|_| Value::Extension)?,
            Marker::FixExt16 => self.take(17).map(|_| Value::Extension)?,
            Marker::Ext8 => self.extension(1)?,
            Marker::Ext16 => self.extension(2)?,
            Marker::Ext32 => self.extension(4)?,
            Marker::Reserved => return Err(Malformed("a byte that begins no value")),
        })
    }

    fn extension(&mut self, length_bytes: usize) -> Result<Value<'a>, Malformed> {
        let length = self.number(length_bytes)?;
        self.take(length as usize + 1)?;
        Ok(Value::Extension)
    }

    /// Passes over the next value with everything in it.
    pub(crate) fn skip(&mut self) -> Result<(), Malformed> {
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            // Each takes at least one byte, so that a false count ends with the bytes.
            left = left.saturating_add(match self.value()? {
                Value::Array(count) => count.into(),
                Value::Map(count) => u64::from(count) * 2,
                _ => 0,
            });
        }
        Ok(())
    }

    /// An array's length.
    pub(crate) fn array(&mut self) -> Result<u32, Malformed> {
        match self.value()? {
            Value::Array(count) => Ok(count),
            _ => Err(Malformed("something else where an array belongs")),
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn signed<'a>(number: i64) -> Value<'a> {
    u64::try_from(number).map_or(Value::Signed(number), Value::Unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_skipped_as_another_writer_wrote_them() {
        let mut bytes = Vec::new();
        rmp::encode::write_map_len(&mut bytes, 2).expect("a vector grows");
        rmp::encode::write_str(&mut bytes, "deep").expect("a vector grows");
        for _ in 0..1000 {
            rmp::encode::write_array_len(&mut bytes, 1).expect("a vector grows");
        }
        rmp::encode::write_nil(&mut bytes).expect("a vector grows");
        rmp::encode::write_str(&mut bytes, &"long".repeat(100)).expect("a vector grows");
        rmp::encode::write_bin(&mut bytes, &[1, 2]).expect("a vector grows");
        rmp::encode::write_sint(&mut bytes, -70_000).expect("a vector grows");
        rmp::encode::write_uint(&mut bytes, u64::MAX).expect("a vector grows");
        rmp::encode::write_ext_meta(&mut bytes, 3, 5).expect("a vector grows");
        bytes.extend([0; 3]);
        let mut cursor = Cursor::new(&bytes);
        cursor.skip().expect("a whole map");
        assert_eq!(cursor.value(), Ok(Value::Signed(-70_000)));
        assert_eq!(cursor.value(), Ok(Value::Unsigned(u64::MAX)));
        assert_eq!(cursor.value(), Ok(Value::Extension));
        assert!(cursor.is_empty() && cursor.value().is_err());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics_and_ends(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.skip().is_ok() {}
        }
    }
}
