//! Lines of text files, plain or compressed with gzip or zstd, with their numbers.
//!
//! Compression is told from the first bytes, not from the name. A missing `x` is looked for as
//! `x.gz` and `x.zst` too. Lines end in LF or CRLF; a byte order mark is dropped; blank lines are
//! counted and skipped. Memory: one line, or one block of 8 MiB for [`parse_lines`].

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

/// Why a text file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Neither the file nor a compressed copy exists.
    #[error("{}: no such file, and no {name}.gz or {name}.zst beside it; check the path", path.display())]
    Missing {
        /// The file asked for.
        path: PathBuf,
        /// Its name without the folder.
        name: String,
    },
    /// A folder stands where a file was expected.
    #[error("{}: is a folder; name a file in it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused to read on.
    #[error("{}: reading failed after line {line}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Lines read before.
        line: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Compressed data ends early or does not decode.
    #[error("{}: damaged compressed data after line {line} ({source}); fetch or compress the file again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Lines read before.
        line: usize,
        /// What the decoder said.
        source: io::Error,
    },
    /// A line is not UTF-8.
    #[error("{}:{line}: expected UTF-8, found other bytes after byte {offset} of the line; convert the file (iconv -t UTF-8)", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Valid bytes of the line before the first that is not.
        offset: usize,
    },
}

/// The file that `path` means: itself, else `path.gz`, else `path.zst`; `None` if none exists.
pub fn locate(path: &Path) -> Option<PathBuf> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    [path.to_owned(), with(".gz"), with(".zst")]
        .into_iter()
        .find(|p| p.exists())
}

/// Reads a file line by line.
pub struct LineReader {
    path: PathBuf,
    source: Box<dyn BufRead>,
    compressed: bool,
    bytes: Vec<u8>,
    line: usize,
}

impl LineReader {
    /// Opens `path`, or its compressed copy (see [`locate`]).
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let Some(path) = locate(path) else {
            let name = path
                .file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into();
            return Err(ReadError::Missing {
                path: path.into(),
                name,
            });
        };
        if path.is_dir() {
            return Err(ReadError::Folder { path });
        }
        let io_error = |source| ReadError::Io {
            path: path.clone(),
            line: 0,
            source,
        };
        let mut file = BufReader::with_capacity(1 << 20, File::open(&path).map_err(io_error)?);
        let start = file.fill_buf().map_err(io_error)?;
        let (source, compressed): (Box<dyn BufRead>, bool) = if start.starts_with(&[0x1f, 0x8b]) {
            let decoder = flate2::bufread::MultiGzDecoder::new(file);
            (Box::new(BufReader::with_capacity(1 << 20, decoder)), true)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let decoder = zstd::Decoder::with_buffer(file).map_err(io_error)?;
            (Box::new(BufReader::with_capacity(1 << 20, decoder)), true)
        } else {
            (Box::new(file), false)
        };
        Ok(Self {
            path,
            source,
            compressed,
            bytes: vec![],
            line: 0,
        })
    }

    /// The file that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next line that is not blank, with its number from 1; `None` at the end.
    ///
    /// # Errors
    /// After [`ReadError::NotUtf8`] the next call goes on with the next line; others end the file.
    pub fn next_line(&mut self) -> Result<Option<(usize, &str)>, ReadError> {
        loop {
            self.bytes.clear();
            let (path, line) = (&self.path, self.line);
            let read = self
                .source
                .read_until(b'\n', &mut self.bytes)
                .map_err(|source| {
                    if self.compressed {
                        ReadError::Damaged {
                            path: path.clone(),
                            line,
                            source,
                        }
                    } else {
                        ReadError::Io {
                            path: path.clone(),
                            line,
                            source,
                        }
                    }
                })?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        let mut bytes = &self.bytes[..];
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if self.line == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        match str::from_utf8(bytes) {
            Ok(text) => Ok(Some((self.line, text))),
            Err(e) => Err(ReadError::NotUtf8 {
                path: self.path.clone(),
                line: self.line,
                offset: e.valid_up_to(),
            }),
        }
    }
}

/// Text gathered before its lines are parsed together.
const BLOCK_BYTES: usize = 8 << 20;

/// Parses every line that is not blank, several at a time, and hands over the results in file order.
///
/// `take` sees lines that are not UTF-8 or do not parse as errors and decides whether to go on; a
/// file that cannot be read further ends the walk.
///
/// # Errors
/// Whatever `take` returns, or the read error.
pub fn parse_lines<T, E>(
    path: &Path,
    parse: impl Fn(usize, &str) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, Result<T, E>) -> Result<(), E>,
) -> Result<(), E>
where
    T: Send,
    E: From<ReadError> + Send,
{
    let mut reader = LineReader::open(path)?;
    let mut text = String::new();
    loop {
        text.clear();
        let mut lines: Vec<(usize, Result<Range<usize>, ReadError>)> = vec![];
        let mut end = None;
        while text.len() < BLOCK_BYTES {
            match reader.next_line() {
                Ok(Some((line, more))) => {
                    let start = text.len();
                    text.push_str(more);
                    lines.push((line, Ok(start..text.len())));
                }
                Ok(None) => {
                    end = Some(Ok(()));
                    break;
                }
                Err(ReadError::NotUtf8 { path, line, offset }) => {
                    lines.push((line, Err(ReadError::NotUtf8 { path, line, offset })));
                }
                Err(error) => {
                    end = Some(Err(error));
                    break;
                }
            }
        }
        let parsed: Vec<(usize, Result<T, E>)> = lines
            .into_par_iter()
            .map(|(line, range)| match range {
                Ok(range) => (line, parse(line, &text[range])),
                Err(error) => (line, Err(error.into())),
            })
            .collect();
        for (line, result) in parsed {
            take(line, result)?;
        }
        if let Some(end) = end {
            return Ok(end?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("genret-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(path: &Path) -> Result<Vec<(usize, String)>, ReadError> {
        let mut reader = LineReader::open(path)?;
        let mut lines = vec![];
        while let Some((line, text)) = reader.next_line()? {
            lines.push((line, text.to_string()));
        }
        Ok(lines)
    }

    #[test]
    fn lines_are_equal_plain_and_compressed() {
        let folder = Folder::new("reader-kinds");
        let text = "\u{feff}one\r\n\n \t\ntwo \u{e9}\nthree".as_bytes();
        let expected = [
            (1, "one".into()),
            (4, "two \u{e9}".into()),
            (5, "three".into()),
        ];
        // Two members or frames one after the other are one file.
        let halves = [gz(&text[..7]), gz(&text[7..])].concat();
        let zst = zstd::encode_all(text, 1).unwrap();
        assert_eq!(all(&folder.file("plain", text)).unwrap(), expected);
        assert_eq!(all(&folder.file("no-ending", &halves)).unwrap(), expected);
        folder.file("z.zst", &zst);
        assert_eq!(all(&folder.0.join("z")).unwrap(), expected);
        folder.file("g.gz", &gz(text));
        assert_eq!(all(&folder.0.join("g")).unwrap(), expected);
        assert_eq!(all(&folder.file("empty", b"")).unwrap(), []);
    }

    #[test]
    fn errors_name_file_line_and_remedy() {
        let folder = Folder::new("reader-errors");
        let message = |path: &Path| all(path).unwrap_err().to_string();
        let missing = message(&folder.0.join("corpus.jsonl"));
        assert!(missing.contains("corpus.jsonl.zst"), "{missing}");
        assert!(message(&folder.0).contains("is a folder"));
        let bad = message(&folder.file("bad", b"a\n\nbc\xff\nd\n"));
        assert!(bad.contains("bad:3:") && bad.contains("byte 2"), "{bad}");
        let cut = gz("line\n".repeat(9).as_bytes());
        let cut = message(&folder.file("cut", &cut[..cut.len() - 9]));
        assert!(cut.contains("damaged"), "{cut}");
    }

    #[test]
    fn parallel_parsing_keeps_order_and_numbers() {
        let folder = Folder::new("reader-blocks");
        // Three blocks, a blank line before every tenth number.
        let body: String = (0..30_000)
            .map(|i| {
                format!(
                    "{}{i} {}\n",
                    if i % 10 == 0 { "\n" } else { "" },
                    "x".repeat(800)
                )
            })
            .collect();
        let path = folder.file("numbers", body.as_bytes());
        let mut seen = vec![];
        parse_lines::<usize, ReadError>(
            &path,
            |_, text| Ok(text.split(' ').next().unwrap().parse().unwrap()),
            |line, value| {
                seen.push((line, value?));
                Ok(())
            },
        )
        .unwrap();
        let expected: Vec<_> = (0..30_000).map(|i| (i + i / 10 + 2, i)).collect();
        assert!(seen == expected);
    }

    #[test]
    fn a_bad_line_can_be_passed_over() {
        let folder = Folder::new("reader-bad");
        let path = folder.file("bad", b"a\n\xff\nb\n");
        let mut seen = vec![];
        let parse = |_, text: &str| Ok::<_, ReadError>(text.to_string());
        parse_lines(&path, parse, |line, text| {
            seen.push((line, text.ok()));
            Ok(())
        })
        .unwrap();
        assert_eq!(
            seen,
            [(1, Some("a".into())), (2, None), (3, Some("b".into()))]
        );
    }
}
