//! Files of tensors in the safetensors format: read through a memory map, written all or nothing.
//!
//! In: a path. Out: views into the file, or a whole new file. Assumes that nobody shortens a file while it is read (the
//! system ends a process that touches memory behind a file's end); everything a header claims is checked first.

use crate::error::Error;
use crate::files::write_atomically;
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dtype::DType;
use birkhoff_runtime::{Buffer, View};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// An open file of tensors.
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor in a file.
#[derive(Clone, PartialEq, Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<i64>,
    range: Range<usize>,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// A tensor of a file: the file's own memory where its alignment allows, a copy otherwise.
pub enum FileTensor<'a> {
    /// Where the file has it.
    Mapped(View<'a>),
    /// Moved to aligned memory.
    Copied(Buffer),
}

impl FileTensor<'_> {
    /// The elements.
    pub fn view(&self) -> View<'_> {
        match self {
            FileTensor::Mapped(view) => view.clone(),
            FileTensor::Copied(buffer) => buffer.view(),
        }
    }
}

impl TensorFile {
    /// Opens and maps a file.
    ///
    /// Errors: a file that is not there, not a regular file, or not of this format: cut short, with a header that
    /// contradicts itself or the file's length, with two tensors of one name.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile, Error> {
        let path = path.as_ref();
        let fail = |message: String| Error::in_file(input_error(message), path.display());
        let file = File::open(path).map_err(|error| fail(format!("the file cannot be opened: {error}")))?;
        let meta = file.metadata().map_err(|error| fail(format!("the file cannot be read: {error}")))?;
        if !meta.is_file() {
            return Err(fail("a safetensors file is expected, this is not a regular file".to_string()));
        }
        let bytes = if meta.len() == 0 {
            Bytes::Owned(vec![])
        } else {
            // SAFETY: the map is only read. That the file keeps its length is the assumption of this module.
            let map = unsafe { Mmap::map(&file) };
            Bytes::Mapped(map.map_err(|error| fail(format!("the file cannot be read: {error}")))?)
        };
        TensorFile::from_parts(path.to_path_buf(), bytes)
    }

    /// Reads a file's content from memory; `path` is its name in errors.
    ///
    /// Errors: as [`TensorFile::open`].
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<TensorFile, Error> {
        TensorFile::from_parts(path.into(), Bytes::Owned(bytes))
    }

    fn from_parts(path: PathBuf, bytes: Bytes) -> Result<TensorFile, Error> {
        match read_header(bytes.all()) {
            Ok(tensors) => Ok(TensorFile { path, bytes, tensors }),
            Err(message) => Err(Error::in_file(input_error(message), path.display())),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The element type (as the file names it) and the extents of a tensor.
    pub fn info(&self, name: &str) -> Option<(String, &[i64])> {
        self.tensors.get(name).map(|stored| (dtype_name(stored.dtype), stored.shape.as_slice()))
    }

    /// A tensor's elements.
    ///
    /// Errors: a tensor that is not there, an element type this project does not have.
    pub fn tensor(&self, name: &str) -> Result<FileTensor<'_>, Diagnostic> {
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| input_error(format!("there is no tensor `{name}` in the file")))?;
        let dtype = dtype_of(stored.dtype).ok_or_else(|| {
            let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            input_error(format!("the tensor `{name}` has elements of type {}", dtype_name(stored.dtype)))
                .help(format!("the element types are {}", names.join(", ")))
        })?;
        let bytes = self.bytes.all().get(stored.range.clone()).unwrap_or_default();
        match View::from_bytes(bytes, dtype, &stored.shape) {
            Ok(view) => Ok(FileTensor::Mapped(view)),
            // Either it is not aligned, and the copy is; or it is wrong, and the copy says the same.
            Err(_) => {
                Buffer::from_bytes(bytes, dtype, &stored.shape).map(FileTensor::Copied).map_err(|error| {
                    input_error(format!("the tensor `{name}` cannot be read: {}", error.message))
                })
            }
        }
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorFile {} {:?}", self.path.display(), self.tensors.keys())
    }
}

fn input_error(message: impl Into<String>) -> Diagnostic {
    Diagnostic::input(Span::NONE, message)
}

fn read_header(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    let (header_bytes, meta) = SafeTensors::read_metadata(bytes).map_err(|error| describe(&error, bytes))?;
    let data_start = LENGTH_BYTES + header_bytes;
    // The reader above keeps the last of several tensors of one name and says nothing.
    let header = bytes.get(LENGTH_BYTES..data_start).unwrap_or_default();
    let names: UniqueNames = serde_json::from_slice(header)
        .map_err(|error| format!("this is not a safetensors file: the header is wrong: {error}"))?;
    let mut tensors = BTreeMap::new();
    for name in names.0.into_iter().filter(|name| name != "__metadata__") {
        let Some(info) = meta.info(&name) else { continue };
        let shape: Result<Vec<i64>, _> = info.shape.iter().map(|extent| i64::try_from(*extent)).collect();
        let shape = shape.map_err(|_| format!("the tensor `{name}` has an extent beyond 64 bits"))?;
        let (start, end) = info.data_offsets;
        let range = data_start + start..data_start + end;
        tensors.insert(name, Stored { dtype: info.dtype, shape, range });
    }
    Ok(tensors)
}

/// What is wrong with a file, in words that say where.
fn describe(error: &SafeTensorError, bytes: &[u8]) -> String {
    let what = match error {
        SafeTensorError::HeaderTooSmall => {
            format!("a file starts with {LENGTH_BYTES} bytes of length, found {} bytes in all", bytes.len())
        }
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            let length = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
            format!("the header is said to have {length} bytes, the file has {}", bytes.len())
        }
        SafeTensorError::InvalidHeader(error) => format!("the header is not UTF-8: {error}"),
        SafeTensorError::InvalidHeaderDeserialization(error) => format!("the header is wrong: {error}"),
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "the tensors of the header do not fill the file of {} bytes; is it cut short?",
                bytes.len()
            )
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("the tensor `{name}` does not start where the one before it ends")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's shape and element type do not give the bytes it is said to have".to_string()
        }
        SafeTensorError::ValidationOverflow => "a tensor's size does not fit 64 bits".to_string(),
        other => other.to_string(),
    };
    format!("this is not a safetensors file: {what}")
}

/// The keys of a JSON object, each of which may occur once.
struct UniqueNames(BTreeSet<String>);

impl<'de> serde::Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = UniqueNames;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueNames, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("two tensors are called `{name}`")));
                    }
                }
                Ok(UniqueNames(names))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::Bf16),
        Dtype::F16 => Some(DType::F16),
        Dtype::I64 => Some(DType::I64),
        Dtype::I32 => Some(DType::I32),
        Dtype::BOOL => Some(DType::Bool),
        _ => None,
    }
}

fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::Bool => Dtype::BOOL,
    }
}

/// Our name of a stored element type, or the format's own for those that we do not have.
fn dtype_name(dtype: Dtype) -> String {
    dtype_of(dtype).map_or_else(|| format!("{dtype:?}").to_lowercase(), |dtype| dtype.name().to_string())
}

/// Writes a file of tensors, whole or not at all: into a temporary file of the same folder, which then takes the name.
///
/// The same tensors give the same bytes, whatever their order.
///
/// Errors: a place that cannot be written, or that is there and no regular file.
pub fn write_tensors(path: impl AsRef<Path>, tensors: &BTreeMap<String, View<'_>>) -> Result<(), Error> {
    let path = path.as_ref();
    let fail = |what: String| {
        let message = format!("the file cannot be written: {what}");
        Error::in_file(input_error(message), path.display())
    };
    if path.metadata().is_ok_and(|meta| !meta.is_file()) {
        return Err(fail("it is there, and not a regular file".to_string()));
    }
    // Wide types first, so that every tensor starts aligned.
    let mut order: Vec<(&String, &View<'_>)> = tensors.iter().collect();
    order.sort_by_key(|(name, view)| (std::cmp::Reverse(view.dtype().size_bytes()), *name));
    let header = header_of(&order).map_err(fail)?;
    let write = || -> std::io::Result<()> {
        write_atomically(path, |file| {
            let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
            out.write_all(&header)?;
            order.iter().try_for_each(|(_, view)| out.write_all(view.bytes()))?;
            out.flush()
        })
    };
    write().map_err(|error| fail(error.to_string()))
}

fn header_of(tensors: &[(&String, &View<'_>)]) -> Result<Vec<u8>, String> {
    let mut offset = 0usize;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, view) in tensors {
        let end = offset.checked_add(view.bytes().len()).ok_or("it would be too large")?;
        let shape = view.shape().iter().map(|extent| *extent as usize).collect();
        let info = TensorInfo { dtype: stored_dtype(view.dtype()), shape, data_offsets: (offset, end) };
        infos.push(((*name).clone(), info));
        offset = end;
    }
    let meta = Metadata::new(None, infos).map_err(|error| error.to_string())?;
    let mut json = serde_json::to_vec(&meta).map_err(|error| error.to_string())?;
    // The data starts at a multiple of 8, as the format recommends.
    json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refusal(bytes: Vec<u8>) -> String {
        TensorFile::from_bytes("f", bytes).unwrap_err().diagnostics()[0].message.clone()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let (a, b, c) = ([1.5f32, f32::NAN], [1.0f64, -2.0], [true, false, true]);
        let tensors = BTreeMap::from([
            ("a".to_string(), View::of(&a, &[2]).unwrap()),
            ("b".to_string(), View::of(&b, &[1, 2]).unwrap()),
            ("c".to_string(), View::of(&c, &[3]).unwrap()),
            ("scalar".to_string(), View::of(&a[..1], &[]).unwrap()),
        ]);
        write_tensors(&path, &tensors).unwrap();
        let read = TensorFile::open(&path).unwrap();
        assert_eq!(read.names().collect::<Vec<_>>(), ["a", "b", "c", "scalar"]);
        for (name, view) in &tensors {
            let found = read.tensor(name).unwrap();
            assert!(matches!(found, FileTensor::Mapped(_)));
            assert_eq!((found.view().bytes(), found.view().shape()), (view.bytes(), view.shape()));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // The format's own reader agrees.
        assert_eq!(SafeTensors::deserialize(&std::fs::read(&path).unwrap()).unwrap().len(), 4);
    }

    #[test]
    fn unaligned_tensors_are_copied() {
        let mut data = vec![7u8];
        data.extend(2.5f64.to_le_bytes());
        let header = r#"{"a":{"dtype":"BOOL","shape":[0],"data_offsets":[0,0]},"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}"#;
        let read = TensorFile::from_bytes("f", file(header, &data)).unwrap();
        assert_eq!(read.tensor("x").unwrap().view().as_slice::<f64>().unwrap(), [2.5]);
        assert!(read.tensor("u").is_err());
        assert_eq!(read.info("u").unwrap().0, "u8");
    }

    #[test]
    fn lying_headers_are_refused() {
        let one = |dtype: &str, shape: &str, range: &str| {
            file(&format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{range}}}}}"#), &[0; 8])
        };
        assert!(TensorFile::from_bytes("f", one("F32", "[2]", "[0,8]")).is_ok());
        let twice = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
        let found = [
            refusal(vec![]),
            refusal(vec![1, 2, 3]),
            refusal(file("{}", &[0; 8])),
            refusal(u64::MAX.to_le_bytes().to_vec()),
            refusal(100u64.to_le_bytes().to_vec()),
            refusal(one("F32", "[3]", "[0,8]")),
            refusal(one("F32", "[2]", "[4,12]")),
            refusal(one("F32", "[2]", "[0,80]")),
            refusal(one("F64", "[4611686018427387904,4]", "[0,8]")),
            refusal(file(twice, &[0; 8])),
        ];
        let expected = [
            "a file starts with 8 bytes of length, found 0 bytes in all",
            "a file starts with 8 bytes of length, found 3 bytes in all",
            "the tensors of the header do not fill the file of 18 bytes; is it cut short?",
            "the header is said to have 18446744073709551615 bytes, the file has 8",
            "the header is said to have 100 bytes, the file has 8",
            "a tensor's shape and element type do not give the bytes it is said to have",
            "the tensor `x` does not start where the one before it ends",
            "a tensor's shape and element type do not give the bytes it is said to have",
            "a tensor's size does not fit 64 bits",
            "the header is wrong: two tensors are called `x` at line 1 column 109",
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, &format!("this is not a safetensors file: {expected}"));
        }
    }

    #[test]
    fn places_that_cannot_be_written_are_errors_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_tensors(folder.path(), &BTreeMap::new()).is_err());
        assert!(write_tensors(folder.path().join("no/such/folder"), &BTreeMap::new()).is_err());
        assert!(TensorFile::open(folder.path()).is_err());
        assert!(TensorFile::open(folder.path().join("absent")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
