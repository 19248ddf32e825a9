//! Step rows for other people's boards: one CSV table, or TensorBoard event files.
//!
//! An event file is a sequence of TFRecords: length (8 bytes, little endian), masked CRC-32C of the length, data,
//! masked CRC-32C of the data; the data is an `Event` message of TensorFlow's `event.proto`, of which five fields
//! are written here by hand. The mask is `rotate_right(crc, 15) + 0xa282ead8`. Wall times are seconds of training
//! since the first step, so that the files repeat bit for bit.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::status::step_rows;
use super::{SavedModel, SavedPlan, SweepError};
use crate::atomic_file;
use crate::record::StepRow;

fn name_of(model: &SavedModel) -> String {
    let name = model.name().replace(' ', "-");
    format!("{name}-{}-seed{}", model.fraction, model.seed)
}

/// Names and values of the curves of a step.
fn curves(row: &StepRow) -> Vec<(&'static str, f64)> {
    let mut all = vec![
        ("loss", row.loss),
        ("learning_rate", row.learning_rate),
        ("grad_norm", row.grad_norm),
        ("tokens_seen", row.tokens_seen as f64),
        ("flops", row.flops),
        ("tokens_per_sec", row.tokens_per_sec),
    ];
    all.extend(row.validation_loss.map(|loss| ("validation_loss", loss)));
    all
}

/// Writes the step rows of every model of `plan` below `out` as one CSV table to `path`; returns their number.
pub fn csv(plan: &SavedPlan, out: &Path, path: &Path) -> Result<usize, SweepError> {
    let mut text = String::from(
        "run,size,params_non_embedding,fraction,seed,step,loss,learning_rate,grad_norm,examples_seen,tokens_seen,\
         flops,validation_loss,tokens_per_sec\n",
    );
    let mut count = 0;
    for model in &plan.models {
        for row in step_rows(out, &model.id)? {
            let validation = row.validation_loss.map_or(String::new(), |v| v.to_string());
            text += &format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{validation},{}\n",
                name_of(model),
                model.size,
                model.params_non_embedding,
                model.fraction,
                model.seed,
                row.step,
                row.loss,
                row.learning_rate,
                row.grad_norm,
                row.examples_seen,
                row.tokens_seen,
                row.flops,
                row.tokens_per_sec
            );
            count += 1;
        }
    }
    atomic_file::write(path, |file| file.write_all(text.as_bytes()))
        .map_err(SweepError::io(path))?;
    Ok(count)
}

/// Writes an event file per model that has been begun, each in a folder of its name below `folder`; returns
/// their paths.
pub fn tensorboard(
    plan: &SavedPlan,
    out: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>, SweepError> {
    let mut written = vec![];
    for model in &plan.models {
        let rows = step_rows(out, &model.id)?;
        if rows.is_empty() {
            continue;
        }
        // A size of another family has a colon, which some file systems do not take.
        let run = folder.join(name_of(model).replace(':', "-"));
        fs::create_dir_all(&run).map_err(SweepError::io(&run))?;
        let path = run.join(format!("events.out.tfevents.0.{}", model.id));
        let mut bytes = record(&version());
        let (mut secs, mut tokens) = (0.0, 0);
        for row in &rows {
            secs += (row.tokens_seen - tokens) as f64 / row.tokens_per_sec;
            tokens = row.tokens_seen;
            bytes.extend(record(&event(secs, row)));
        }
        atomic_file::write(&path, |file| file.write_all(&bytes)).map_err(SweepError::io(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// Event { wall_time: 0, file_version: "brain.Event:2" }.
fn version() -> Vec<u8> {
    let mut message = double(1, 0.0);
    message.extend(bytes(3, b"brain.Event:2"));
    message
}

/// Event { wall_time, step, summary: Summary { value: [Value { tag, simple_value }] } }.
fn event(secs: f64, row: &StepRow) -> Vec<u8> {
    let mut summary = vec![];
    for (tag, value) in curves(row) {
        let mut inner = bytes(1, tag.as_bytes());
        inner.push(2 << 3 | 5);
        inner.extend((value as f32).to_le_bytes());
        summary.extend(bytes(1, &inner));
    }
    let mut message = double(1, secs);
    message.push(2 << 3);
    message.extend(varint(row.step));
    message.extend(bytes(5, &summary));
    message
}

fn double(field: u8, value: f64) -> Vec<u8> {
    let mut all = vec![field << 3 | 1];
    all.extend(value.to_le_bytes());
    all
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![field << 3 | 2];
    all.extend(varint(content.len() as u64));
    all.extend(content);
    all
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut all = vec![];
    while value >= 0x80 {
        all.push(value as u8 | 0x80);
        value >>= 7;
    }
    all.push(value as u8);
    all
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut all = length.to_vec();
    all.extend(masked(&length).to_le_bytes());
    all.extend(data);
    all.extend(masked(data).to_le_bytes());
    all
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event files are small.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_numbers_are_those_of_the_formats() {
        // RFC 3720, B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(0), [0]);
        assert_eq!(bytes(1, b"ab"), [0x0a, 2, b'a', b'b']);
        let record = record(b"xyz");
        assert_eq!(record.len(), 8 + 4 + 3 + 4);
        assert_eq!(record[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
