//! Building an index of dense vectors.

use std::path::{Path, PathBuf};

use super::file::{FORMAT, Header, Kind};
use super::graph::{self, Graph};
use super::{DenseIndex, DenseOptions, Numbers, VectorError};
use crate::atomic_file;
use crate::section_file::{self, Bytes, IdList, Section, as_bytes};

/// Takes the vectors of the passages; all are held, 4 bytes a number.
pub struct DenseBuilder {
    width: usize,
    options: DenseOptions,
    values: Vec<f32>,
    ids: IdList,
    model: String,
}

impl DenseBuilder {
    /// An index of no passages yet, whose vectors have `width` numbers.
    ///
    /// # Errors
    /// [`VectorError::Option`] for a width of 0, graph options out of range, or a graph without all bits.
    pub fn new(width: usize, options: DenseOptions) -> Result<Self, VectorError> {
        let wrong = |name, range, found: String| VectorError::Option { name, range, found };
        if width == 0 || width > 1 << 20 {
            return Err(wrong("width", "from 1 to 1,048,576", width.to_string()));
        }
        if let Some(graph) = &options.graph {
            graph.check()?;
            if options.numbers == Numbers::Bytes {
                let (range, found) = ("floats or both where there is a graph", "bytes".into());
                return Err(wrong("numbers", range, found));
            }
        }
        Ok(Self {
            width,
            options,
            values: vec![],
            ids: IdList::default(),
            model: String::new(),
        })
    }

    /// Adds the next passage.
    ///
    /// # Errors
    /// [`VectorError::Vector`] for another width or numbers that are not finite; [`VectorError::TooLarge`].
    pub fn push(&mut self, id: &str, vector: &[f32]) -> Result<(), VectorError> {
        check(vector, self.width, &|| format!("of passage {id}"))?;
        if self.ids.len() >= u32::MAX as usize {
            return Err(VectorError::TooLarge {
                what: "passages",
                limit: u32::MAX.into(),
            });
        }
        self.values.extend(vector);
        self.ids.push(id);
        Ok(())
    }

    /// Names the model that made the vectors, by the hash of what made it.
    pub fn of_model(self, identity: &str) -> Self {
        Self {
            model: identity.into(),
            ..self
        }
    }

    /// Builds the index and writes it to `path`, which is complete or untouched afterwards.
    ///
    /// # Errors
    /// [`VectorError::Io`].
    pub fn write(self, path: &Path) -> Result<(), VectorError> {
        self.build(|header, sections| {
            atomic_file::write(path, |out| {
                section_file::write(out, FORMAT, &header.to_bytes(), sections)
            })
            .map_err(|e| VectorError::write(path, e))
        })
    }

    /// Builds the index in memory.
    pub fn into_index(self) -> Result<DenseIndex, VectorError> {
        let path = PathBuf::from("(memory)");
        let mut image = vec![];
        self.build(|header, sections| {
            section_file::write(&mut image, FORMAT, &header.to_bytes(), sections)
                .map_err(|e| VectorError::write(&path, e))
        })?;
        DenseIndex::from_bytes(&path, Bytes::owned(&image))
    }

    fn build(
        self,
        write: impl FnOnce(&Header, &[Section<'_>]) -> Result<(), VectorError>,
    ) -> Result<(), VectorError> {
        let numbers = self.options.numbers;
        let (mut codes, mut scales) = (vec![], vec![]);
        let (mut sum, mut error) = (0.0, 0.0);
        if numbers != Numbers::Floats {
            codes.reserve(self.values.len());
            for vector in self.values.chunks_exact(self.width) {
                let scale = quantise(vector, &mut codes);
                scales.push(scale);
                for (&value, &code) in vector.iter().zip(&codes[codes.len() - self.width..]) {
                    sum += f64::from(value.abs());
                    error += f64::from((value - f32::from(code) * scale).abs());
                }
            }
        }
        let graph = match &self.options.graph {
            Some(options) => graph::build(&self.values, self.width, options),
            None => Graph::default(),
        };
        let header = Header {
            passages: self.ids.len() as u32,
            width: self.width as u32,
            numbers,
            mean_error: if sum > 0.0 { (error / sum) as f32 } else { 0.0 },
            links: self.options.graph.map_or(0, |options| options.links as u32),
            entry: graph.entry,
        };
        let values = match numbers {
            Numbers::Bytes => &[][..],
            _ => &self.values,
        };
        let of = |kind: Kind, bytes| Section {
            kind: kind as u16,
            field: 0,
            bytes,
        };
        let sections = [
            of(Kind::Values, as_bytes(values)),
            of(Kind::Codes, as_bytes(&codes)),
            of(Kind::Scales, as_bytes(&scales)),
            of(Kind::GroundLinks, as_bytes(&graph.ground)),
            of(Kind::UpperLinks, as_bytes(&graph.upper)),
            of(Kind::UpperStarts, as_bytes(&graph.starts)),
            of(Kind::IdEnds, as_bytes(&self.ids.ends)),
            of(Kind::IdBytes, &self.ids.bytes),
            of(Kind::Model, self.model.as_bytes()),
        ];
        write(&header, &sections)
    }
}

/// Fails unless the vector has `width` finite numbers; `name` is for the message.
pub(super) fn check(
    vector: &[f32],
    width: usize,
    name: &dyn Fn() -> String,
) -> Result<(), VectorError> {
    if vector.len() != width {
        let what = format!("{} numbers, but the index has {width}", vector.len());
        return Err(VectorError::vector(name(), what));
    }
    match vector.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(VectorError::vector(
            name(),
            format!("{x} among its numbers; they are finite"),
        )),
        None => Ok(()),
    }
}

/// Appends the codes of a vector, whose numbers are the codes times the returned scale.
pub(super) fn quantise(vector: &[f32], codes: &mut Vec<i8>) -> f32 {
    let largest = vector.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let scale = largest / 127.0;
    if scale == 0.0 {
        codes.extend(vector.iter().map(|_| 0));
        return 0.0;
    }
    codes.extend(
        vector
            .iter()
            .map(|x| (x / scale).round().clamp(-127.0, 127.0) as i8),
    );
    scale
}
