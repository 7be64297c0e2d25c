//! Alerts (RFC 5246, section 7.2).

/// A parsed alert. Only one that was authenticated means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    pub level: Level,
    pub description: u8,
}

impl Alert {
    /// The goodbye of a session.
    pub const CLOSE_NOTIFY: Self = Self {
        level: Level::Warning,
        description: CLOSE_NOTIFY,
    };

    #[must_use]
    pub fn fatal(description: u8) -> Self {
        Self {
            level: Level::Fatal,
            description,
        }
    }

    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let &[level, description] = content else {
            return None;
        };
        let level = match level {
            1 => Level::Warning,
            2 => Level::Fatal,
            _ => return None,
        };

        Some(Self { level, description })
    }

    #[must_use]
    pub fn emit(self) -> [u8; 2] {
        [self.level as u8, self.description]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    Warning = 1,
    Fatal = 2,
}

pub const CLOSE_NOTIFY: u8 = 0;
pub const UNEXPECTED_MESSAGE: u8 = 10;
pub const HANDSHAKE_FAILURE: u8 = 40;
pub const DECRYPT_ERROR: u8 = 51;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bytes_and_a_known_level_or_nothing() {
        assert_eq!(Alert::parse(&[1, 0]), Some(Alert::CLOSE_NOTIFY));
        assert_eq!(Alert::parse(&[2, 51]), Some(Alert::fatal(DECRYPT_ERROR)));
        for malformed in [&[][..], &[1], &[0, 0], &[3, 0], &[1, 0, 0]] {
            assert_eq!(Alert::parse(malformed), None);
        }
        assert_eq!(Alert::CLOSE_NOTIFY.emit(), [1, 0]);
        assert_eq!(Alert::fatal(HANDSHAKE_FAILURE).emit(), [2, 40]);
    }
}
