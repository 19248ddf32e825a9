//! Teacher forcing: the loss of given targets under a prompt that is read once.

use genret_kernels::log_sum_exp;
use rayon::prelude::*;

use crate::model::{ModelError, NextTokenModel};
use crate::types::TokenId;

/// Loss in nats of every token of every target: `-log p(token | prompt, previous tokens)`.
///
/// The prompt is read once and its cache is shared by all targets. Equal targets cost what each
/// costs alone. No padding is scored or attended, so a value does not depend on the other targets.
///
/// # Errors
/// What the model returns; [`ModelError::NotFinite`] if it gives logits that are not numbers.
pub fn target_losses<M: NextTokenModel, T: AsRef<[TokenId]>>(
    model: &M,
    prompt: &[TokenId],
    targets: &[T],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let longest = targets.iter().map(|t| t.as_ref().len()).max().unwrap_or(0);
    let mut losses: Vec<Vec<f32>> = targets
        .iter()
        .map(|t| Vec::with_capacity(t.as_ref().len()))
        .collect();
    if longest == 0 {
        return Ok(losses);
    }
    let (mut state, mut hidden) = model.start(&[prompt], longest)?;
    // Targets still being scored; at first all of them share the one row of the prompt.
    let mut live: Vec<usize> = (0..targets.len())
        .filter(|&i| !targets[i].as_ref().is_empty())
        .collect();
    let mut rows: Vec<usize> = vec![0; live.len()];
    for position in 0..longest {
        let logits = model.logits(hidden);
        let [num_rows, vocab] = logits.dims();
        let data = logits.into_data().convert::<f32>();
        let values = data
            .as_slice::<f32>()
            .expect("the data was converted to f32");
        let row_of = |row: usize| &values[row * vocab..(row + 1) * vocab];
        let norms: Vec<f64> = (0..num_rows)
            .into_par_iter()
            .map(|r| log_sum_exp(row_of(r)))
            .collect();
        if norms.iter().any(|norm| !norm.is_finite()) {
            return Err(ModelError::NotFinite { what: "logits" });
        }
        for (&target, &row) in live.iter().zip(&rows) {
            let token = targets[target].as_ref()[position];
            losses[target].push((norms[row] - f64::from(row_of(row)[token.index()])) as f32);
        }
        let kept: Vec<(usize, usize)> = live
            .iter()
            .zip(&rows)
            .filter(|&(&target, _)| targets[target].as_ref().len() > position + 1)
            .map(|(&target, &row)| (target, row))
            .collect();
        if kept.is_empty() {
            break;
        }
        let parents: Vec<usize> = kept.iter().map(|&(_, row)| row).collect();
        live = kept.into_iter().map(|(target, _)| target).collect();
        let last: Vec<TokenId> = live
            .iter()
            .map(|&t| targets[t].as_ref()[position])
            .collect();
        hidden = model.step(&mut state, &parents, &last)?;
        rows = (0..live.len()).collect();
    }
    Ok(losses)
}
