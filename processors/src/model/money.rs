//! Money: integers in minor units, beside a currency.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::ParsedText;

/// The greatest price of one piece, in minor units.
///
/// 200 lines of 10,000 pieces at this price stay far below what an `i64` holds.
pub const PRICE_MAX: i64 = 1_000_000_000_000;

/// A currency by its ISO 4217 code.
///
/// ```
/// use millstream_processors::model::Currency;
///
/// assert_eq!("EUR".parse::<Currency>()?.to_string(), "EUR");
/// assert!("EUX".parse::<Currency>().is_err());
/// # Ok::<(), millstream_processors::model::UnknownCurrency>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

/// Text that is not the code of a currency in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the ISO 4217 code of a currency in use")]
pub struct UnknownCurrency;

impl Currency {
    /// US dollar.
    pub const USD: Self = Self(*b"USD");

    /// The code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).expect("codes are ASCII letters")
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;
    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| UnknownCurrency)?;
        let known = CODES
            .as_bytes()
            .chunks_exact(4)
            .any(|c| c.starts_with(&code));
        if known && code.is_ascii() {
            Ok(Self(code))
        } else {
            Err(UnknownCurrency)
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ParsedText(std::marker::PhantomData))
    }
}

/// ISO 4217 codes of currencies in use, four bytes each; the most frequent ones first, as the list
/// is searched from the front.
const CODES: &str = "USD EUR GBP JPY CHF CAD AUD CNY INR BRL SEK NOK DKK PLN CZK MXN \
    AED AFN ALL AMD AOA ARS AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BSD BTN BWP \
    BYN BZD CDF CLP COP CRC CUP CVE DJF DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD \
    GNF GTQ GYD HKD HNL HTG HUF IDR ILS IQD IRR ISK JMD JOD KES KGS KHR KMF KPW KRW \
    KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK \
    MYR MZN NAD NGN NIO NPR NZD OMR PAB PEN PGK PHP PKR PYG QAR RON RSD RUB RWF SAR \
    SBD SCR SDG SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD \
    TWD TZS UAH UGX UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG ";

const _: () = assert!(CODES.len().is_multiple_of(4));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_whole_or_not_at_all() {
        for code in CODES.split_whitespace() {
            assert_eq!(code.parse::<Currency>().expect("listed").code(), code);
        }
        for text in ["", "usd", "US", "USDX", "SD ", "XXX", "€"] {
            assert!(text.parse::<Currency>().is_err(), "{text:?}");
        }
    }
}
