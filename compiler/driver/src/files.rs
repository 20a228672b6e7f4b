//! Writing files whole or not at all.

use crate::error::Error;
use birkhoff_ir::diag::{Diagnostic, Span};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Lets `body` write a temporary file beside `path`, which takes its name once all went well.
pub fn write_atomically(
    path: &Path,
    body: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let folder = folder_of(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".birkhoff-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temp = builder.tempfile_in(folder)?;
    body(temp.as_file_mut())?;
    temp.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The folder that holds `path`.
///
/// Errors: it is not there; said here, because the system would name the temporary file.
fn folder_of(path: &Path) -> std::io::Result<&Path> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(std::io::Error::other(format!("there is no folder `{}`", folder.display())))
}

/// Writes a folder of files: all are made in a temporary folder beside it first, and then moved in.
///
/// Errors: a place that cannot be written, or that is there and no folder.
pub fn write_folder(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let parent =
            folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temp = tempfile::Builder::new().prefix(".birkhoff-").suffix(".tmp").tempdir_in(parent)?;
        for (name, bytes) in files {
            File::create(temp.path().join(name))?.write_all(bytes)?;
        }
        fs::create_dir_all(folder)?;
        files.keys().try_for_each(|name| fs::rename(temp.path().join(name), folder.join(name)))
    };
    write().map_err(|error| {
        let message = format!("the folder cannot be written: {error}");
        Error::in_file(Diagnostic::input(Span::NONE, message), folder.display())
    })
}
