//! Floating-point operations of training and decoding, from counts alone.
//!
//! A matrix of N parameters costs 2 N per token forward and twice that backward (Kaplan et al. 2020,
//! section 2.1); attention over a context of c tokens costs 4 c times the width of all query heads
//! per layer and token (2 for the scores, 2 for the weighted sum). The output head is counted for
//! the positions it is evaluated at. Norms, rotations and softmax are left out, as is usual.
//!
//! In an encoder-decoder the encoder reads the prompt, every token seeing all of it; the decoder
//! reads a start token and the target, and attends in every layer to keys and values that it makes
//! of the encoder's output once.

/// The counts that decide a model's cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelCounts {
    /// Parameters of matrices that every token passes, without embedding and head; of an
    /// encoder-decoder, those that every token of the decoder passes.
    pub params_non_embedding: f64,
    /// Parameters of the output head: vocabulary times width.
    pub params_head: f64,
    /// Layers, of an encoder-decoder those of the decoder.
    pub layers: f64,
    /// Width of all query heads together.
    pub attention_width: f64,
    /// What reads the prompt, where that is not the decoder itself.
    pub encoder: Option<EncoderCounts>,
}

/// The part of an encoder-decoder that every token of the prompt passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderCounts {
    /// Parameters of the encoder's matrices.
    pub params: f64,
    /// Layers of the encoder.
    pub layers: f64,
    /// Parameters of the decoder's matrices that make keys and values of the encoder's output.
    pub params_memory: f64,
}

/// What decides, beside the shape, what a training step costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainingCost {
    /// Layers are computed again in the backward pass (gradient checkpointing, Chen et al. 2016).
    pub recomputed: bool,
    /// Parameters of low-rank adapters, where these alone are trained (Hu et al. 2021).
    pub adapters: Option<f64>,
}

impl ModelCounts {
    /// FLOPs of one causal forward pass over `tokens` tokens that follow `context` cached ones, with
    /// the head evaluated at `heads` positions; in an encoder-decoder the decoder's pass, under a
    /// prompt of `memory` tokens.
    fn forward(&self, memory: f64, context: f64, tokens: f64, heads: f64) -> f64 {
        // Token i of the pass sees context + i + 1 positions, and the prompt where it stands apart.
        let seen = tokens * (context + memory) + tokens * (tokens + 1.0) / 2.0;
        2.0 * self.params_non_embedding * tokens
            + 4.0 * self.layers * self.attention_width * seen
            + 2.0 * self.params_head * heads
    }

    /// FLOPs of the encoder over `prompt` tokens, with what the decoder makes of its output.
    fn encode(&self, encoder: &EncoderCounts, prompt: f64) -> f64 {
        2.0 * (encoder.params + encoder.params_memory) * prompt
            + 4.0 * encoder.layers * self.attention_width * prompt * prompt
    }

    /// FLOPs of reading a prompt, up to the logits of the first token after it.
    pub fn prefill(&self, prompt: usize) -> f64 {
        let prompt = prompt as f64;
        match &self.encoder {
            None => self.forward(0.0, 0.0, prompt, 1.0),
            Some(encoder) => self.encode(encoder, prompt) + self.forward(prompt, 0.0, 1.0, 1.0),
        }
    }

    /// FLOPs of training on one example: the head at the target positions, the last target token
    /// predicted but never read.
    ///
    /// The backward pass costs two forward passes, one for the gradient of what goes into each matrix
    /// and one for that of the matrix itself; frozen matrices need the first only. Adapters of A parameters
    /// cost 6 A a token, layers computed again one more forward pass without the head.
    pub fn train(&self, prompt: usize, target: usize, cost: TrainingCost) -> f64 {
        let (prompt, target) = (prompt as f64, target as f64);
        let (forward, tokens) = match &self.encoder {
            None => {
                let tokens = prompt + target - 1.0;
                (self.forward(0.0, 0.0, tokens, target), tokens)
            }
            Some(encoder) => {
                let decoder = self.forward(prompt, 0.0, target, target);
                (self.encode(encoder, prompt) + decoder, prompt + target)
            }
        };
        let head = 2.0 * self.params_head * target;
        let backward = match (cost.adapters, &self.encoder) {
            (None, _) => 2.0 * forward,
            (Some(adapters), encoder) => {
                let matrices = match encoder {
                    None => self.params_non_embedding * tokens,
                    Some(e) => {
                        (e.params + e.params_memory) * prompt + self.params_non_embedding * target
                    }
                };
                // Everything but the matrices' own gradients: attention has no weights of its own.
                2.0 * forward - 2.0 * matrices - head + 6.0 * adapters * tokens
            }
        };
        let again = if cost.recomputed { forward - head } else { 0.0 };
        forward + backward + again
    }

    /// FLOPs of one text's representation: every token sees every other; `decoder` says whether the decoder of an
    /// encoder-decoder reads the text too, `head` whether the output head is evaluated at every position.
    pub fn represent(&self, tokens: usize, decoder: bool, head: bool) -> f64 {
        let tokens = tokens as f64;
        let heads = if head { tokens } else { 0.0 };
        match &self.encoder {
            None => {
                2.0 * self.params_non_embedding * tokens
                    + 4.0 * self.layers * self.attention_width * tokens * tokens
                    + 2.0 * self.params_head * heads
            }
            Some(encoder) if decoder => {
                self.encode(encoder, tokens) + self.forward(tokens, 0.0, tokens, heads)
            }
            Some(encoder) => {
                2.0 * encoder.params * tokens
                    + 4.0 * encoder.layers * self.attention_width * tokens * tokens
                    + 2.0 * self.params_head * heads
            }
        }
    }

    /// FLOPs of training on one text's representation. As [`Self::train`]; the head's backward pass is left out,
    /// for it touches the active terms alone, and `cost.recomputed` counts the second forward pass of
    /// cached gradients.
    pub fn train_representation(
        &self,
        tokens: usize,
        decoder: bool,
        head: bool,
        cost: TrainingCost,
    ) -> f64 {
        let forward = self.represent(tokens, decoder, head);
        let body = self.represent(tokens, decoder, false);
        let backward = match cost.adapters {
            None => 2.0 * body,
            Some(adapters) => {
                let matrices = match &self.encoder {
                    None => self.params_non_embedding,
                    Some(e) if decoder => e.params + e.params_memory + self.params_non_embedding,
                    Some(e) => e.params,
                };
                2.0 * body - 2.0 * matrices * tokens as f64 + 6.0 * adapters * tokens as f64
            }
        };
        let again = if cost.recomputed { forward } else { 0.0 };
        forward + backward + again
    }

    /// FLOPs of decoding one query: `prompt` tokens once, then `new` tokens on each of `beam`
    /// hypotheses (the first of them comes from the prompt).
    pub fn decode(&self, prompt: usize, new: usize, beam: usize) -> f64 {
        let (steps, length) = (new as f64 - 1.0, prompt as f64);
        let step = match self.encoder {
            None => self.forward(0.0, length, steps, steps),
            Some(_) => self.forward(length, 1.0, steps, steps),
        };
        self.prefill(prompt) + beam as f64 * step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_by_hand() {
        let counts = ModelCounts {
            params_non_embedding: 100.0,
            params_head: 30.0,
            layers: 2.0,
            attention_width: 4.0,
            encoder: None,
        };
        // 3 tokens seeing 1 + 2 + 3 = 6 positions: 600 + 4*2*4*6 + 60
        assert_eq!(counts.prefill(3), 600.0 + 192.0 + 60.0);
        // prompt 3, target 2: 4 tokens read, 2 predicted; 1+2+3+4 = 10 positions
        assert_eq!(
            counts.train(3, 2, TrainingCost::default()),
            3.0 * (800.0 + 320.0 + 120.0)
        );
        // layers once more
        let recomputed = TrainingCost {
            recomputed: true,
            adapters: None,
        };
        let expected = 3.0 * (800.0 + 320.0 + 120.0) + 800.0 + 320.0;
        assert_eq!(counts.train(3, 2, recomputed), expected);
        // no gradients of matrices and head, but 6 x 5 for each of 4 tokens
        let adapted = TrainingCost {
            recomputed: false,
            adapters: Some(5.0),
        };
        let expected = 3.0 * (800.0 + 320.0 + 120.0) - 800.0 - 120.0 + 120.0;
        assert_eq!(counts.train(3, 2, adapted), expected);
        // 3 tokens that see 3 positions each: 600 + 4*2*4*9, and the head at each
        assert_eq!(counts.represent(3, false, true), 600.0 + 288.0 + 180.0);
        // the head forward only
        let expected = 3.0 * 888.0 + 180.0;
        assert_eq!(
            counts.train_representation(3, false, true, TrainingCost::default()),
            expected
        );
        let cached = counts.train_representation(3, false, true, recomputed);
        assert_eq!(cached, expected + 1068.0);
        assert_eq!(
            counts.train_representation(3, false, false, adapted),
            3.0 * 888.0 - 600.0 + 90.0
        );
        // prompt of 3, then one step of one token seeing 4 positions on 5 beams
        assert_eq!(counts.decode(3, 2, 5), 852.0 + 5.0 * (200.0 + 128.0 + 60.0));
        assert_eq!(counts.decode(3, 1, 5), 852.0);
    }

    #[test]
    fn costs_of_an_encoder_decoder_by_hand() {
        let counts = ModelCounts {
            params_non_embedding: 100.0,
            params_head: 30.0,
            layers: 2.0,
            attention_width: 4.0,
            encoder: Some(EncoderCounts {
                params: 70.0,
                layers: 3.0,
                params_memory: 20.0,
            }),
        };
        // 3 prompt tokens through 90 parameters, 9 pairs: 540 + 4*3*4*9
        let prompt = 540.0 + 432.0;
        // the start token sees itself and the prompt: 200 + 4*2*4*4 + 60
        assert_eq!(counts.prefill(3), prompt + 200.0 + 128.0 + 60.0);
        // two tokens see 1 + 2 positions and 3 of the prompt each
        assert_eq!(
            counts.train(3, 2, TrainingCost::default()),
            3.0 * (prompt + 400.0 + 32.0 * 9.0 + 120.0)
        );
        // the encoder alone, every token seeing 3: 2*70*3 + 4*3*4*9; then the decoder on top
        assert_eq!(counts.represent(3, false, false), 420.0 + 432.0);
        let decoder = 600.0 + 32.0 * 15.0 + 180.0;
        assert_eq!(counts.represent(3, true, true), prompt + decoder);
        // the second token sees 2 positions and the prompt, on 5 beams
        let second = 200.0 + 32.0 * 5.0 + 60.0;
        assert_eq!(counts.decode(3, 2, 5), counts.prefill(3) + 5.0 * second);
    }
}
