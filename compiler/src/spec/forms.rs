//! Values of a spec that may be written in several forms: numbers or parameters, sizes, dims, tensors, lists of names.
//!
//! In: TOML values, through serde. Out: what was written, with places.

use birkhoff_ir::tensor::Domain;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use toml::Spanned;

/// A name or another text, with its place.
pub type Text = Spanned<String>;

/// A number or truth value, or the name of a parameter: `20`, `1e-6`, `"$iters"`.
#[derive(Clone, PartialEq, Debug)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text, which must be `$` and the name of a parameter.
    Text(String),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a parameter such as \"$iters\"")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number::Int(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number::Float(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Number, E> {
        Ok(Number::Bool(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Number, E> {
        Ok(Number::Text(value.into()))
    }
}

/// A size: `"n*C"`, or an integer.
#[derive(Clone, PartialEq, Debug)]
pub struct Size(pub String);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size: an integer, or a text of dims such as \"n*C\"")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Size, E> {
        Ok(Size(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Size, E> {
        Ok(Size(value.into()))
    }
}

/// When a dim gets its value.
#[derive(Clone, PartialEq, Debug)]
pub enum DimForm {
    /// Fixed by the spec.
    Fixed(i64),
    /// `"input"`: at compile time, from the shapes of the inputs or an option.
    Input,
    /// At every call.
    Run(RunDim),
}

/// A run-time dim: `{ run = [1, 2147483648], default = 1024 }`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDim {
    /// Smallest and largest value.
    pub run: [i64; 2],
    /// Used where nothing else says.
    pub default: Option<i64>,
}

impl<'de> Deserialize<'de> for DimForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DimFormVisitor)
    }
}

struct DimFormVisitor;

impl<'de> Visitor<'de> for DimFormVisitor {
    type Value = DimForm;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, \"input\", or { run = [smallest, largest], default = size }")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<DimForm, E> {
        Ok(DimForm::Fixed(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<DimForm, E> {
        match value {
            "input" => Ok(DimForm::Input),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DimForm, A::Error> {
        RunDim::deserialize(MapAccessDeserializer::new(map)).map(DimForm::Run)
    }
}

/// A distribution for random values of an input: `{ normal = [0, 1] }`, `{ uniform = [0, 1] }`, `{ ball = [0.1, 0.7] }`.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Random {
    /// Mean and standard deviation.
    Normal([f64; 2]),
    /// Lower and upper end.
    Uniform([f64; 2]),
    /// Smallest and largest norm of a point.
    Ball([f64; 2]),
}

impl Random {
    /// The distribution.
    ///
    /// Errors: numbers that are not finite, ends in the wrong order.
    pub fn domain(self) -> Result<Domain, String> {
        let (Random::Normal(pair) | Random::Uniform(pair) | Random::Ball(pair)) = self;
        if pair.iter().any(|value| !value.is_finite()) {
            return Err("a distribution has finite numbers".into());
        }
        let [a, b] = pair;
        match self {
            Random::Normal(_) if b < 0.0 => {
                Err(format!("expected a standard deviation of 0 or more, found {b}"))
            }
            Random::Normal(_) => Ok(Domain::Normal { mean: a, std: b }),
            Random::Uniform(_) | Random::Ball(_) if a > b => {
                Err(format!("expected the lower end first, found {a} and {b}"))
            }
            Random::Ball(_) if a < 0.0 => Err(format!("expected norms of 0 or more, found {a}")),
            Random::Uniform(_) => Ok(Domain::Uniform { lo: a, hi: b }),
            Random::Ball(_) => Ok(Domain::Ball { lo: a, hi: b }),
        }
    }
}

/// A string, or a table that also says more: a name (`"phi"`, `{ name = "phi", random = .. }`), or a type.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// The name, where the place in the spec says the type.
    pub name: Option<Text>,
    /// The type, where the key is the name.
    pub ty: Option<Text>,
    /// What random values are drawn from.
    pub random: Option<Spanned<Random>>,
    /// The text alone, without a place: a name or a type.
    pub text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorFields {
    name: Option<Text>,
    #[serde(rename = "type")]
    ty: Option<Text>,
    random: Option<Spanned<Random>>,
}

impl<'de> Deserialize<'de> for Tensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TensorVisitor)
    }
}

struct TensorVisitor;

impl<'de> Visitor<'de> for TensorVisitor {
    type Value = Tensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or a table with `random`")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tensor, E> {
        Ok(Tensor { name: None, ty: None, random: None, text: Some(value.into()) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tensor, A::Error> {
        let fields = TensorFields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Tensor { name: fields.name, ty: fields.ty, random: fields.random, text: None })
    }
}

/// Names that choose among values: `["h", "out"]`, or `{ comb = "res" }` where a name differs from the value's.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Choice(pub Vec<(Text, Text)>);

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = Choice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names, or a table of names and values such as { comb = \"res\" }")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Choice, A::Error> {
        let names = Vec::<Text>::deserialize(SeqAccessDeserializer::new(seq))?;
        Ok(Choice(names.into_iter().map(|name| (name.clone(), name)).collect()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choice, A::Error> {
        let mut pairs = vec![];
        while let Some((name, value)) = map.next_entry::<Text, Text>()? {
            pairs.push((name, value));
        }
        Ok(Choice(pairs))
    }
}

/// `inputs` of a function, in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inputs(pub Vec<(Text, Spanned<Tensor>)>);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of names and types such as { m = \"f32[B,n,n]\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inputs, A::Error> {
        let mut inputs = vec![];
        while let Some(entry) = map.next_entry::<Text, Spanned<Tensor>>()? {
            inputs.push(entry);
        }
        Ok(Inputs(inputs))
    }
}
