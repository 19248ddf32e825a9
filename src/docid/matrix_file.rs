//! Matrices in the formats of NumPy and of safetensors.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::{DocidError, Vectors};
use crate::atomic_file;

const MAGIC: &[u8] = b"\x93NUMPY";

/// The matrix of a file, by its first bytes; half, single and double precision.
pub(super) fn read(path: &Path) -> Result<Vectors, DocidError> {
    let io = |source| DocidError::Vectors {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the file is read once, here, and given up; whoever cuts it meanwhile gets the signal.
    let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
    let found = if bytes.starts_with(MAGIC) {
        numpy(&bytes)
    } else {
        safetensors(&bytes)
    };
    found.map_err(|found| DocidError::NotVectors {
        path: path.into(),
        found,
    })
}

/// Writes a matrix of rows of `dims` numbers in NumPy's format, version 1.
///
/// # Errors
/// [`DocidError::Vectors`].
pub fn write_matrix(path: &Path, dims: usize, values: &[f32]) -> Result<(), DocidError> {
    let rows = values.len() / dims.max(1);
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dims}), }}");
    // With magic, version, length and line feed a multiple of 64.
    let len = (header.len() + 11).next_multiple_of(64) - 10;
    let written = atomic_file::write(path, |w| {
        w.write_all(MAGIC)?;
        w.write_all(&[1, 0])?;
        w.write_all(&(len as u16).to_le_bytes())?;
        writeln!(w, "{header:<width$}", width = len - 1)?;
        let mut numbers = values.iter();
        numbers.try_for_each(|number| w.write_all(&number.to_le_bytes()))
    });
    written.map_err(|source| DocidError::Vectors {
        path: path.into(),
        source,
    })
}

fn matrix(shape: &[usize], values: Vec<f32>) -> Result<Vectors, String> {
    match *shape {
        [rows, dims] if rows.checked_mul(dims) == Some(values.len()) => {
            Ok(Vectors::new(dims, values))
        }
        [_, _] => Err(format!("{} numbers for the shape {shape:?}", values.len())),
        _ => Err(format!("an array of shape {shape:?}")),
    }
}

/// Numbers of `N` bytes each.
fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|chunk| number(*chunk))
        .collect()
}

fn safetensors(bytes: &[u8]) -> Result<Vectors, String> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| format!("neither .npy nor .safetensors ({e})"))?;
    let matrices: Vec<_> = tensors
        .iter()
        .filter(|(_, tensor)| tensor.shape().len() == 2)
        .collect();
    let [(_, tensor)] = &matrices[..] else {
        let names: Vec<&str> = matrices.iter().map(|(name, _)| *name).collect();
        return Err(format!("{} matrices {names:?}", names.len()));
    };
    let data = tensor.data();
    let values = match tensor.dtype() {
        Dtype::F32 => numbers(data, f32::from_le_bytes),
        Dtype::F64 => numbers(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => numbers(data, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => numbers(data, |b| bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("numbers of type {other:?}")),
    };
    matrix(tensor.shape(), values)
}

/// Versions 1 to 3 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn numpy(bytes: &[u8]) -> Result<Vectors, String> {
    let cut = || "the header is cut".to_string();
    let (at, len) = match bytes.get(6).ok_or_else(cut)? {
        1 => {
            let len = bytes.get(8..10).ok_or_else(cut)?;
            (10, usize::from(len[0]) | usize::from(len[1]) << 8)
        }
        2 | 3 => {
            let len = bytes
                .get(8..)
                .and_then(|b| b.first_chunk())
                .ok_or_else(cut)?;
            (12, u32::from_le_bytes(*len) as usize)
        }
        other => return Err(format!(".npy format version {other}")),
    };
    let header = bytes.get(at..).and_then(|b| b.get(..len)).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let after = |key: &str| -> Result<&str, String> {
        let at = header
            .find(key)
            .ok_or_else(|| format!("no {key} in the header"))?;
        let value = &header[at + key.len()..];
        Ok(value.trim_start_matches([':', ' ']))
    };
    if after("'fortran_order'")?.starts_with("True") {
        return Err("columns one after the other (fortran_order)".into());
    }
    let shape = after("'shape'")?;
    let shape = shape.strip_prefix('(').and_then(|s| s.split_once(')'));
    let shape: Vec<usize> = shape
        .ok_or("no shape in the header")?
        .0
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map_err(|_| format!("{part:?} in the shape")))
        .collect::<Result<_, _>>()?;
    let kind = after("'descr'")?;
    let kind = kind.strip_prefix('\'').and_then(|k| k.split_once('\''));
    let data = &bytes[at + len..];
    let (size, values) = match kind.ok_or("no type in the header")?.0 {
        "<f2" => (2, numbers(data, |b| f16::from_le_bytes(b).to_f32())),
        "<f4" => (4, numbers(data, f32::from_le_bytes)),
        "<f8" => (8, numbers(data, |b| f64::from_le_bytes(b) as f32)),
        other => return Err(format!("numbers of type {other:?}")),
    };
    if !data.len().is_multiple_of(size) {
        return Err("the numbers are cut".into());
    }
    matrix(&shape, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `numpy.save` writes.
    fn npy(kind: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header =
            format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, header.len() as u8, 0]);
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_of_numpy_are_read() {
        let numbers = [1.5f32, -2.0, 0.0, 3.0, 4.0, 5.0];
        let single: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> = numbers
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_le_bytes())
            .collect();
        let double: Vec<u8> = numbers
            .iter()
            .flat_map(|x| f64::from(*x).to_le_bytes())
            .collect();
        for (kind, data) in [("<f4", &single), ("<f2", &half), ("<f8", &double)] {
            let vectors = numpy(&npy(kind, "False", "(3, 2)", data)).unwrap();
            assert_eq!((vectors.len(), vectors.dims()), (3, 2));
            assert_eq!(vectors.row(1), [0.0, 3.0]);
        }
        let path = std::env::temp_dir().join(format!("genret-matrix-{}", std::process::id()));
        write_matrix(&path, 2, &numbers).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            npy("<f4", "False", "(3, 2)", &single)
        );
        std::fs::remove_file(&path).unwrap();
        for (bytes, said) in [
            (npy("<f4", "True", "(3, 2)", &single), "fortran_order"),
            (npy("<i4", "False", "(3, 2)", &single), "\"<i4\""),
            (npy("<f4", "False", "(6,)", &single), "shape [6]"),
            (npy("<f4", "False", "(4, 2)", &single), "6 numbers"),
            (npy("<f4", "False", "(x, 2)", &single), "\"x\""),
            (npy("<f4", "False", "(3, 2)", &single[..23]), "cut"),
            (MAGIC.to_vec(), "cut"),
        ] {
            let error = numpy(&bytes).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let whole = npy("<f4", "False", "(3, 2)", &single);
        for len in 0..whole.len() {
            assert!(numpy(&whole[..len]).is_err());
        }
    }

    #[test]
    fn matrices_of_safetensors_are_read() {
        use safetensors::tensor::TensorView;
        let data: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = |shape: &[usize]| TensorView::new(Dtype::F32, shape.to_vec(), &data).unwrap();
        let one = safetensors::serialize([("v", view(&[2, 1])), ("w", view(&[2]))], None).unwrap();
        assert_eq!(safetensors(&one).unwrap(), Vectors::new(1, vec![1.0, 2.0]));
        let two = [("v", view(&[2, 1])), ("w", view(&[1, 2]))];
        let two = safetensors::serialize(two, None).unwrap();
        assert!(safetensors(&two).unwrap_err().contains("2 matrices"));
        assert!(safetensors(b"hello").unwrap_err().contains("neither"));
    }
}
