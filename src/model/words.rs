//! Where a sparse encoder of random weights begins: at the words of the text itself.

use burn::tensor::{Tensor, TensorData};

use super::{Model, checkpoint, parameters};

/// By how many standard deviations of a chance logit all logits are lowered, where the width allows it.
const DEVIATIONS: f64 = 4.0;

/// What is left of the matrices that write into the residual stream.
const RESIDUAL: f64 = 0.1;

impl Model {
    /// The model, with random weights, changed so that the largest logits of a text are those of its own tokens, and
    /// hardly any other logit is positive: as a sparse encoder it matches words from the first step on.
    ///
    /// With weights as they are drawn, half of all logits are positive, so that every term of a text is active, scores
    /// are sums of noise over the whole vocabulary, and contrastive training has to empty the vectors before it can learn
    /// anything. Here a state stays near its token's embedding (what attention and feed-forward layers write is a tenth of
    /// what it was), the head is the embedding (where it is a matrix of its own it becomes a copy), and one dimension
    /// serves as a threshold: its value is c in every embedding, and the head (or the final gain, where the matrix is
    /// shared) turns its sign, so that every logit loses c^2. Two embeddings of independent numbers of variance s^2 have
    /// an inner product of standard deviation s^2 sqrt(d), an embedding with itself s^2 d: c^2 is four deviations, or
    /// half of the latter where the width d is below 64. All of it is trained on, and the layout is the architecture's own.
    pub fn with_words_first(self) -> Self {
        let (_, width) = self.config().layers_and_width();
        let tied = !parameters::shapes(&self)
            .iter()
            .any(|(name, _)| is_head(name));
        let mut embedding = vec![];
        parameters::replace(self, |name, shape, values| {
            let device = values.device();
            let mut numbers = checkpoint::values(values.clone());
            if name.ends_with("embed_tokens.weight") || name == "shared.weight" {
                let variance = numbers.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
                    / numbers.len() as f64;
                let d = width as f64;
                let threshold = variance * (DEVIATIONS * d.sqrt()).min(d / 2.0);
                for row in numbers.chunks_exact_mut(width) {
                    row[0] = threshold.sqrt() as f32;
                }
                embedding.clone_from(&numbers);
            } else if is_head(name) {
                numbers.clone_from(&embedding);
                for row in numbers.chunks_exact_mut(width) {
                    row[0] = -row[0];
                }
            } else if tied
                && (name == "model.norm.weight" || name.ends_with("final_layer_norm.weight"))
            {
                numbers[0] = -numbers[0];
            } else if RESIDUAL_WRITERS.iter().any(|part| name.ends_with(part)) {
                return values * RESIDUAL;
            } else {
                return values;
            }
            let len = shape.iter().product::<usize>();
            Tensor::from_data(TensorData::new(numbers, [len]), &device)
        })
    }
}

/// The matrices that write into the residual stream, by the end of their names in LLaMA and in T5.
const RESIDUAL_WRITERS: [&str; 4] = [
    ".o_proj.weight",
    ".down_proj.weight",
    "Attention.o.weight",
    ".wo.weight",
];

fn is_head(name: &str) -> bool {
    name == "lm_head.weight"
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use crate::model::{EncoderOptions, Model, ModelOptions, Sequences, T5Part};
    use crate::types::TokenId;

    const VOCAB: usize = 1000;

    fn active(model: &Model, text: &[TokenId], options: &EncoderOptions) -> Vec<usize> {
        let vector = model.encode(&Sequences::pad(&[text]), options).unwrap();
        let values: Vec<f32> = vector.into_data().iter::<f32>().collect();
        (0..VOCAB).filter(|&term| values[term] > 0.0).collect()
    }

    #[test]
    fn a_text_begins_as_its_own_words() {
        let text: Vec<TokenId> = (0..20).map(|i| TokenId(7 + 41 * i)).collect();
        for (name, tied) in [
            ("llama:s0.1m", true),
            ("llama:s0.1m", false),
            ("t5:s0.1m", true),
            ("t5:s0.1m", false),
        ] {
            let options = ModelOptions {
                tie_embeddings: Some(tied),
                ..ModelOptions::default()
            };
            let options = options.with_size(name).unwrap();
            let drawn = options.resolve(VOCAB).unwrap().init(5, &Device::flex());
            let parts: &[T5Part] = match name.starts_with("t5") {
                true => &[T5Part::Encoder, T5Part::EncoderDecoder],
                false => &[T5Part::Encoder],
            };
            for &t5_part in parts {
                let options = EncoderOptions {
                    t5_part,
                    ..EncoderOptions::default()
                };
                let noise = active(&drawn, &text, &options);
                assert!(noise.len() > VOCAB * 9 / 10, "{name} {}", noise.len());
                let model = drawn.clone().with_words_first();
                model.check_both_ways(&options).unwrap();
                let terms = active(&model, &text, &options);
                let own = (text.iter())
                    .filter(|token| terms.contains(&token.index()))
                    .count();
                assert!(
                    own >= 18,
                    "{name}, tied {tied}, {t5_part:?}: {own} of 20 words"
                );
                assert!(
                    terms.len() - own < VOCAB / 20,
                    "{name}, tied {tied}, {t5_part:?}: {} others",
                    terms.len() - own
                );
            }
        }
    }
}
