//! The functions that scenarios name (`FORMAT.md`, §3). A name that is not there is an error.

use crate::text::{Key, Text};

/// Longest text that a function returns; longer ones keep their end.
const TEXT_CHARS_MAX: usize = 64;

/// A key as functions see it.
pub type K<'a> = Option<&'a Key>;
/// A value as functions see it.
pub type V<'a> = Option<&'a str>;

/// Takes key and value.
pub type Predicate = fn(K<'_>, V<'_>) -> bool;
/// Makes a value of key and value.
pub type ValueMapper = fn(K<'_>, V<'_>) -> Option<Text>;
/// Makes a key of key and value.
pub type KeyMapper = fn(K<'_>, V<'_>) -> Option<Text>;
/// Makes records of key and value.
pub type FlatMap = fn(K<'_>, V<'_>) -> Vec<(Option<Text>, Option<Text>)>;
/// Makes values of key and value.
pub type FlatValueMap = fn(K<'_>, V<'_>) -> Vec<Option<Text>>;
/// Makes an aggregate of key, value and the aggregate so far.
pub type Aggregator = fn(K<'_>, V<'_>, V<'_>) -> Option<Text>;
/// Makes one aggregate of those of two sessions.
pub type Merger = fn(V<'_>, V<'_>) -> Option<Text>;
/// Makes a value of key, left value and right value.
pub type Joiner = fn(K<'_>, V<'_>, V<'_>) -> Option<Text>;
/// Makes a topic of prefix, key and value.
pub type TopicChoice = fn(&str, K<'_>, V<'_>) -> String;
/// Makes an event time of value, record time and partition time.
pub type Extractor = fn(V<'_>, i64, i64) -> i64;

/// Why a step cannot be read: the name of a function that there is not.
pub type Unknown = String;

/// The last 64 characters.
pub fn cut(text: Text) -> Text {
    let chars = text.chars().count();
    match chars > TEXT_CHARS_MAX {
        true => text.chars().skip(chars - TEXT_CHARS_MAX).collect(),
        false => text,
    }
}

/// `T(x)`: the text, or `null`.
pub fn shown(text: V<'_>) -> &str {
    text.unwrap_or("null")
}

/// `T(k)`.
pub fn shown_key(key: K<'_>) -> Text {
    key.map_or_else(|| "null".to_owned(), Key::to_string)
}

/// `len(x)`.
pub fn length(text: V<'_>) -> usize {
    text.map_or(0, |text| text.chars().count())
}

/// `num(x)`.
pub fn number(text: V<'_>) -> i64 {
    const DIGITS_MAX: usize = 15;
    let number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let legal = (1..=DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        legal.then(|| text.parse().expect("fifteen digits are a number"))
    };
    text.and_then(number).unwrap_or(0)
}

fn first(text: &str) -> Text {
    text.chars().take(1).collect()
}

fn first_or_null(text: V<'_>) -> Option<Text> {
    text.filter(|text| !text.is_empty()).map(first)
}

fn joined(left: V<'_>, with: &str, right: V<'_>) -> Option<Text> {
    Some(cut(format!("{}{with}{}", shown(left), shown(right))))
}

fn greater(a: V<'_>, b: V<'_>) -> Option<Text> {
    a.max(b).map(str::to_owned)
}

fn unknown<T>(what: &str, name: &str) -> Result<T, Unknown> {
    Err(format!("there is no {what} `{name}`"))
}

/// The predicate of that name.
pub fn predicate(name: &str) -> Result<Predicate, Unknown> {
    Ok(match name {
        "always" => |_, _| true,
        "never" => |_, _| false,
        "value_not_null" => |_, v| v.is_some(),
        "value_len_even" => |_, v| length(v).is_multiple_of(2),
        "value_has_a" => |_, v| v.is_some_and(|v| v.contains('a')),
        "value_ge_m" => |_, v| v.is_some_and(|v| v >= "m"),
        "value_lt_n" => |_, v| v.is_some_and(|v| v < "n"),
        "key_lt_c" => |k, _| k.is_some_and(|k| k.to_string().as_str() < "c"),
        "key_not_null" => |k, _| k.is_some(),
        _ => return unknown("predicate", name),
    })
}

/// The value mapper of that name.
pub fn value_mapper(name: &str) -> Result<ValueMapper, Unknown> {
    Ok(match name {
        "identity" => |_, v| v.map(|v| cut(v.to_owned())),
        "upper" => |_, v| v.map(|v| cut(v.to_ascii_uppercase())),
        "append_x" => |_, v| Some(cut(format!("{}x", v.unwrap_or_default()))),
        "with_key" => |k, v| joined(Some(&shown_key(k)), ":", v),
        "null_if_a" => |_, v| v.filter(|v| !v.starts_with('a')).map(|v| cut(v.to_owned())),
        "len" => |_, v| v.map(|_| length(v).to_string()),
        "first" => |_, v| v.map(first),
        "tail" => |_, v| v.map(|v| cut(v.chars().skip(1).collect())),
        "const_c" => |_, _| Some("c".to_owned()),
        "null" => |_, _| None,
        _ => return unknown("value mapper", name),
    })
}

/// The key mapper of that name.
pub fn key_mapper(name: &str) -> Result<KeyMapper, Unknown> {
    Ok(match name {
        "key" => |k, _| k.map(|k| cut(k.to_string())),
        "inner_key" => |k, _| k.map(|k| cut(k.text.clone())),
        "value" => |_, v| v.map(|v| cut(v.to_owned())),
        "value_first" => |_, v| first_or_null(v),
        "key_first" => |k, _| first_or_null(k.map(Key::to_string).as_deref()),
        "key_value" => |k, v| joined(Some(&shown_key(k)), "_", v),
        "const_k" => |_, _| Some("k".to_owned()),
        "null_if_key_a" => |k, _| k.map(|k| cut(k.to_string())).filter(|k| k != "a"),
        "null" => |_, _| None,
        _ => return unknown("key mapper", name),
    })
}

/// How many characters of a value `explode` takes.
const EXPLODED_MAX: usize = 3;

fn exploded(value: V<'_>) -> Vec<Text> {
    let chars = value.unwrap_or_default().chars().take(EXPLODED_MAX);
    chars.map(String::from).collect()
}

/// The flat map of that name.
pub fn flat_map(name: &str) -> Result<FlatMap, Unknown> {
    fn key(k: K<'_>) -> Option<Text> {
        k.map(|k| cut(k.to_string()))
    }
    fn value(v: V<'_>) -> Option<Text> {
        v.map(|v| cut(v.to_owned()))
    }
    Ok(match name {
        "dup" => |k, v| vec![(key(k), value(v)); 2],
        "none_if_null" => |k, v| v.map(|_| (key(k), value(v))).into_iter().collect(),
        "with_swapped" => |k, v| vec![(key(k), value(v)), (value(v), key(k))],
        "explode" => |k, v| {
            let value = || Some(cut(shown_key(k)));
            exploded(v)
                .into_iter()
                .map(|c| (Some(c), value()))
                .collect()
        },
        _ => return unknown("flat map", name),
    })
}

/// The flat value map of that name.
pub fn flat_value_map(name: &str) -> Result<FlatValueMap, Unknown> {
    fn value(v: V<'_>) -> Option<Text> {
        v.map(|v| cut(v.to_owned()))
    }
    Ok(match name {
        "dup" => |_, v| vec![value(v); 2],
        "none_if_null" => |_, v| v.map(|_| value(v)).into_iter().collect(),
        "with_null" => |_, v| vec![value(v), None],
        "explode" => |_, v| exploded(v).into_iter().map(Some).collect(),
        _ => return unknown("flat value map", name),
    })
}

/// What an aggregate starts with.
pub fn initial(name: &str) -> Result<Option<Text>, Unknown> {
    Ok(match name {
        "empty" => Some(String::new()),
        "zero" => Some("0".to_owned()),
        "null" => None,
        _ => return unknown("initialiser", name),
    })
}

/// Aggregators, adders and subtractors take key, value and aggregate; reducers are called with no
/// key, the new value as value, and the value so far as aggregate.
pub fn aggregator(name: &str) -> Result<Aggregator, Unknown> {
    Ok(match name {
        "concat" => |_, v, agg| joined(agg, "+", v),
        "concat_minus" => |_, v, agg| joined(agg, "-", v),
        "concat_key" => |k, v, agg| {
            let pair = format!("{}={}", shown_key(k), shown(v));
            joined(agg, ",", Some(&pair))
        },
        "sum_len" => |_, v, agg| Some((number(agg) + length(v) as i64).to_string()),
        "sub_len" => |_, v, agg| Some((number(agg) - length(v) as i64).to_string()),
        "sub_len_null0" => |_, v, agg| {
            let left = number(agg) - length(v) as i64;
            (left != 0).then(|| left.to_string())
        },
        "max" => |_, v, agg| greater(agg, v),
        "last" => |_, v, _| v.map(|v| cut(v.to_owned())),
        "keep" => |_, _, agg| agg.map(|agg| cut(agg.to_owned())),
        "null_on_z" => |_, v, agg| match v.is_some_and(|v| v.starts_with('z')) {
            true => None,
            false => joined(agg, "+", v),
        },
        _ => return unknown("aggregator", name),
    })
}

/// The session merger of that name.
pub fn merger(name: &str) -> Result<Merger, Unknown> {
    Ok(match name {
        "concat" => |left, right| joined(left, "|", right),
        "sum" => |left, right| Some((number(left) + number(right)).to_string()),
        "max" => greater,
        _ => return unknown("session merger", name),
    })
}

/// The joiner of that name.
pub fn joiner(name: &str) -> Result<Joiner, Unknown> {
    Ok(match name {
        "concat" => |_, left, right| joined(left, "-", right),
        "left" => |_, left, _| left.map(|left| cut(left.to_owned())),
        "right" => |_, _, right| right.map(|right| cut(right.to_owned())),
        "null_if_same_first" => |_, left, right| match (left, right) {
            (Some(l), Some(r)) if first(l) == first(r) => None,
            _ => joined(left, "-", right),
        },
        "with_key" => |k, left, right| {
            let key = shown_key(k);
            Some(cut(format!("{key}:{}-{}", shown(left), shown(right))))
        },
        _ => return unknown("joiner", name),
    })
}

/// The foreign key of that name.
pub fn foreign_key(name: &str) -> Result<KeyMapper, Unknown> {
    Ok(match name {
        "value" | "value_first" | "key_first" => return key_mapper(name),
        "null_if_z" => |_, v| first_or_null(v).filter(|first| first != "z"),
        _ => return unknown("foreign key", name),
    })
}

/// The topic choice of that name.
pub fn topic_choice(name: &str) -> Result<TopicChoice, Unknown> {
    Ok(match name {
        "by_len" => |prefix, _, v| match length(v).is_multiple_of(2) {
            true => format!("{prefix}-even"),
            false => format!("{prefix}-odd"),
        },
        "by_key" => |prefix, k, _| match k {
            None => format!("{prefix}-none"),
            Some(k) if k.to_string().as_str() < "c" => format!("{prefix}-low"),
            Some(_) => format!("{prefix}-high"),
        },
        _ => return unknown("topic choice", name),
    })
}

/// Gets value, the record's timestamp and the partition's time so far.
pub fn extractor(name: &str) -> Result<Extractor, Unknown> {
    Ok(match name {
        "record" => |_, ts, _| ts,
        "payload" => |v, ts, _| payload_time(v).unwrap_or(ts),
        "skip_bang" => |v, ts, _| match v.is_some_and(|v| v.starts_with('!')) {
            true => -1,
            false => ts,
        },
        "partition_time_bang" => |v, ts, partition| match v.is_some_and(|v| v.starts_with('!')) {
            true => partition,
            false => ts,
        },
        _ => return unknown("timestamp extractor", name),
    })
}

/// All digits behind a leading `t`.
fn payload_time(value: V<'_>) -> Option<i64> {
    let rest = value?.strip_prefix('t')?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
