//! Firewall marks: what tells our own datagrams, and the packets of chosen
//! programs, from the rest in rules and in the firewall. Pure.

use std::fmt;
use std::str::FromStr;

/// A value in some bits of a packet's mark; the other bits are somebody else's.
///
/// Written as `ip rule` has it, `VALUE[/MASK]`, decimal or hexadecimal; without
/// a mask all 32 bits are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    value: u32,
    mask: u32,
}

impl Mark {
    /// Clear of the bits that tailscale (0xff0000: 0x40000 and 0x80000), mwan3
    /// (0x3f00), Kubernetes (0xc000), wg-quick and clash use by default.
    pub const DEFAULT: Self = Self {
        value: 0x0064_0000,
        mask: 0x00ff_0000,
    };

    /// A value within a mask, not zero.
    pub fn new(value: u32, mask: u32) -> Result<Self, NotAMark> {
        if value == 0 {
            return Err(NotAMark::Zero);
        }
        if value & !mask != 0 {
            return Err(NotAMark::Outside);
        }

        Ok(Self { value, mask })
    }

    #[must_use]
    pub fn value(self) -> u32 {
        self.value
    }

    #[must_use]
    pub fn mask(self) -> u32 {
        self.mask
    }

    /// Another value in the same bits; none where one bit is all there is.
    #[must_use]
    pub fn second(self) -> Option<Self> {
        let lowest = self.mask & self.mask.wrapping_neg();
        let rest = self.mask & !lowest;
        let second = rest & rest.wrapping_neg();

        [lowest, second]
            .into_iter()
            .filter(|bit| *bit != 0)
            .map(|bit| self.value ^ bit)
            .find(|value| *value != 0)
            .map(|value| Self { value, ..self })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

impl FromStr for Mark {
    type Err = NotAMark;

    fn from_str(text: &str) -> Result<Self, NotAMark> {
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value)?, number(mask)?),
            None => (number(text)?, u32::MAX),
        };

        Self::new(value, mask)
    }
}

/// Why a text is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAMark {
    #[error("not VALUE or VALUE/MASK such as 51820 or 0x640000/0xff0000, in 32 bits")]
    Malformed,
    #[error("every packet without a mark has 0: choose another value")]
    Zero,
    #[error("the value has bits that the mask leaves out")]
    Outside,
}

fn number(text: &str) -> Result<u32, NotAMark> {
    let parsed = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };

    // Both parsers take a plus sign.
    parsed
        .ok()
        .filter(|_| !text.contains('+'))
        .ok_or(NotAMark::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mark_is_read_as_ip_rule_reads_it() {
        for (text, shown) in [
            ("51820", "0xca6c/0xffffffff"),
            ("0xca6c", "0xca6c/0xffffffff"),
            ("0x640000/0xff0000", "0x640000/0xff0000"),
            ("1/0XFF", "0x1/0xff"),
        ] {
            assert_eq!(text.parse::<Mark>().unwrap().to_string(), shown);
        }
        assert_eq!("0x640000/0xff0000".parse(), Ok(Mark::DEFAULT));
    }

    #[test]
    fn what_is_no_mark_is_refused_with_its_reason() {
        for (text, why) in [
            ("", NotAMark::Malformed),
            ("+5", NotAMark::Malformed),
            ("0x", NotAMark::Malformed),
            ("5/", NotAMark::Malformed),
            ("5/6/7", NotAMark::Malformed),
            ("0x100000000", NotAMark::Malformed),
            ("-1", NotAMark::Malformed),
            ("0", NotAMark::Zero),
            ("0/0xff", NotAMark::Zero),
            ("0x100/0xff", NotAMark::Outside),
        ] {
            assert_eq!(text.parse::<Mark>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn one_bit_has_no_second_value() {
        let second = |text: &str| text.parse::<Mark>().unwrap().second();

        assert_eq!(second("0x10/0x10"), None);
        assert_eq!(second("1/3"), "3/3".parse().ok());
        assert_eq!(Mark::DEFAULT.second(), "0x650000/0xff0000".parse().ok());
    }

    proptest! {
        #[test]
        fn a_second_value_is_another_mark_in_the_same_bits(value: u32, mask: u32) {
            let Ok(mark) = format!("{value}/{mask}").parse::<Mark>() else {
                return Ok(());
            };
            prop_assert_eq!(mark.to_string().parse(), Ok(mark));
            match mark.second() {
                Some(second) => {
                    prop_assert_ne!(second, mark);
                    prop_assert_eq!(second.to_string().parse(), Ok(second));
                    prop_assert_eq!(second.mask(), mark.mask());
                }
                None => prop_assert_eq!(mask.count_ones(), 1),
            }
        }
    }
}
