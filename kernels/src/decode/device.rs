//! The beam cache on a device with CubeCL kernels: one kernel per layer and step, prompts and histories where they lie.
//!
//! What all layers of a step share (which query and which slots a beam reads, its rotary tables) is sent to the
//! device once per step, by [`DeviceStore::advance`]. Keys and values of generated tokens are appended to a buffer that
//! grows by doubling and is otherwise written in place.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;

use super::{Beams, CacheShape, Positions};
use crate::cube::attend::{AttendInputs, AttendSize, attend};
use crate::cube::{Place, Units, argument, element};

#[backend_extension(Cube, Fusion)]
pub(crate) trait BeamAttention: Backend {
    #[fusion(dtype = q, shape = q)]
    #[allow(clippy::too_many_arguments)]
    fn beam_attention(
        q: FloatTensor<Self>,
        prompt_k: FloatTensor<Self>,
        prompt_v: FloatTensor<Self>,
        step_k: FloatTensor<Self>,
        step_v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        queries: IntTensor<Self>,
        lengths: IntTensor<Self>,
        history: IntTensor<Self>,
        size: AttendSize,
        with_bias: bool,
    ) -> FloatTensor<Self>;
}

impl BeamAttention for CubeBackend {
    #[allow(clippy::too_many_arguments)]
    fn beam_attention(
        q: FloatTensor<Self>,
        prompt_k: FloatTensor<Self>,
        prompt_v: FloatTensor<Self>,
        step_k: FloatTensor<Self>,
        step_v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        queries: IntTensor<Self>,
        lengths: IntTensor<Self>,
        history: IntTensor<Self>,
        size: AttendSize,
        with_bias: bool,
    ) -> FloatTensor<Self> {
        let place = Place::of(&q);
        let dtype = q.dtype;
        let out = place.empty(q.meta.shape().clone(), dtype);
        let inputs = AttendInputs {
            q: argument(q),
            prompt_k: argument(prompt_k),
            prompt_v: argument(prompt_v),
            step_k: argument(step_k),
            step_v: argument(step_v),
            bias: argument(bias),
            queries: argument(queries),
            lengths: argument(lengths),
            history: argument(history),
        };
        attend(
            &place.client,
            inputs,
            out.clone().into_buffer_arg(),
            element(dtype),
            size,
            with_bias,
            Units::of(&place.client, 128),
        );
        out
    }
}

/// Keys and values of all layers, and what they share of the current step.
pub(super) struct DeviceStore {
    layers: Vec<Layer>,
    /// The first slot of each step among those of all steps.
    starts: Vec<u32>,
    /// Slots in all.
    slots: usize,
    step: Option<Step>,
}

/// One layer, keys as the scores see them.
#[derive(Clone, Default)]
struct Layer {
    /// `[queries * padded, kv_heads * dim]`.
    prompt: Option<[Tensor<2>; 2]>,
    padded: usize,
    /// Keys and values of generated tokens, `[at least as many as slots, kv_heads * dim]`.
    made: Option<[Tensor<2>; 2]>,
    /// Steps of them.
    steps: usize,
}

/// What the layers of a step share.
struct Step {
    queries: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
    history: Tensor<1, Int>,
    /// Rotary tables at the position of each beam, `[beams, 1, dim]`.
    tables: Option<[Tensor<3>; 2]>,
}

impl DeviceStore {
    pub(super) fn new(layers: usize) -> Self {
        Self {
            layers: vec![Layer::default(); layers],
            starts: vec![],
            slots: 0,
            step: None,
        }
    }

    pub(super) fn set_prompt(
        &mut self,
        layer: usize,
        shape: &CacheShape,
        positions: &Positions,
        padded: usize,
        k_nd: Tensor<2>,
        v_nd: Tensor<2>,
    ) {
        let [rows, width] = k_nd.dims();
        let mut k = k_nd;
        if let Positions::Rotary(rotary) = positions {
            let queries = rows / padded.max(1);
            let split = [queries, padded, shape.kv_heads, shape.head_dim];
            let table = |of: &Tensor<2>| {
                like(of.clone().narrow(0, 0, padded), k.dtype()).reshape([
                    1,
                    padded,
                    1,
                    shape.head_dim,
                ])
            };
            let tables = [table(&rotary.cos), table(&rotary.sin)];
            k = turn(k.reshape(split), tables).reshape([rows, width]);
        }
        let layer = &mut self.layers[layer];
        (layer.prompt, layer.padded) = (Some([k, v_nd]), padded);
    }

    /// Sends what the layers of the step that begins will share.
    pub(super) fn advance(&mut self, beams: &Beams<'_>, positions: &Positions) {
        let device = match positions {
            Positions::Rotary(rotary) => rotary.cos.device(),
            Positions::Relative(bias) => bias.device(),
        };
        self.starts
            .push(u32::try_from(self.slots).expect("fewer than 2^32 slots"));
        self.slots += beams.queries.len();
        let slots = beams.ancestors.iter().enumerate();
        let slots = slots.map(|(i, row)| (self.starts[i % beams.steps] + row) as usize);
        let tables = match positions {
            Positions::Rotary(rotary) => {
                let at = ints(beams.positions.iter().copied(), &device);
                let table = |of: &Tensor<2>| {
                    let rows = of.clone().select(0, at.clone());
                    rows.reshape([beams.positions.len(), 1, beams.shape.head_dim])
                };
                Some([table(&rotary.cos), table(&rotary.sin)])
            }
            Positions::Relative(_) => None,
        };
        self.step = Some(Step {
            queries: ints(beams.queries.iter().copied(), &device),
            lengths: ints(beams.lengths.iter().copied(), &device),
            history: ints(slots, &device),
            tables,
        });
    }

    /// Attention of the current tokens to history and, with rotary positions, to their prompts; keys
    /// and values of the tokens are kept.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        beams: &Beams<'_>,
        positions: &Positions,
        [q_bd, k_bd, v_bd]: [Tensor<2>; 3],
    ) -> Tensor<2> {
        let (first, slots) = (self.starts[beams.steps - 1] as usize, self.slots);
        let step = self.step.as_ref().expect("`advance` begins every step");
        let layer = &mut self.layers[layer];
        assert_eq!(
            layer.steps + 1,
            beams.steps,
            "decode_attention: once per layer and step"
        );
        layer.steps += 1;
        let CacheShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *beams.shape;
        let (count, dtype) = (beams.queries.len(), q_bd.dtype());
        let (mut q, mut k) = (q_bd, k_bd);
        if let Some(tables) = &step.tables {
            let tables = tables.clone().map(|table| like(table, dtype));
            let turn = |x: Tensor<2>, heads: usize| {
                let turned = turn(x.reshape([count, heads, head_dim]), tables.clone());
                turned.reshape([count, heads * head_dim])
            };
            q = turn(q, heads) / (head_dim as f64).sqrt();
            k = turn(k, kv_heads);
        }
        let made = match layer.made.take() {
            Some(made) => made,
            None => [&k, &v_bd]
                .map(|x| Tensor::zeros([4 * count, kv_heads * head_dim], (&x.device(), dtype))),
        };
        let mut rows = [k, v_bd].into_iter();
        let made = made.map(|made| {
            let rows = rows.next().expect("keys and values");
            let capacity = made.dims()[0];
            let made = if slots > capacity {
                let more = slots.max(2 * capacity) - capacity;
                let more = Tensor::zeros([more, kv_heads * head_dim], (&rows.device(), dtype));
                Tensor::cat(vec![made, more], 0)
            } else {
                made
            };
            made.slice_assign([first..first + count, 0..kv_heads * head_dim], rows)
        });
        layer.made = Some(made.clone());
        let (bias, prompt, padded) = match positions {
            Positions::Rotary(_) => {
                let prompt = layer.prompt.clone();
                let prompt = prompt.expect("decode_attention: `set_prompt` comes first");
                (None, prompt, layer.padded)
            }
            Positions::Relative(bias) => (Some((**bias).clone()), made.clone(), 0),
        };
        let size = AttendSize {
            beams: count,
            heads,
            kv_heads,
            dim: head_dim,
            padded,
            steps: beams.steps,
        };
        run(q, prompt, made, bias, step, step.history.clone(), size)
    }

    /// Attention of the current tokens to their prompts alone.
    pub(super) fn attend_to_prompts(
        &self,
        layer: usize,
        beams: &Beams<'_>,
        q_bd: Tensor<2>,
    ) -> Tensor<2> {
        let step = self.step.as_ref().expect("`advance` begins every step");
        let layer = &self.layers[layer];
        let prompt = layer.prompt.clone();
        let prompt = prompt.expect("decode_attention: `set_prompt` comes first");
        let size = AttendSize {
            beams: beams.queries.len(),
            heads: beams.shape.heads,
            kv_heads: beams.shape.kv_heads,
            dim: beams.shape.head_dim,
            padded: layer.padded,
            steps: 0,
        };
        // Nothing of the history is read.
        let history = step.queries.clone();
        run(q_bd, prompt.clone(), prompt, None, step, history, size)
    }
}

fn run(
    q: Tensor<2>,
    prompt: [Tensor<2>; 2],
    made: [Tensor<2>; 2],
    bias: Option<Tensor<2>>,
    step: &Step,
    history: Tensor<1, Int>,
    size: AttendSize,
) -> Tensor<2> {
    let with_bias = bias.is_some();
    let bias = match bias {
        Some(bias) => like(bias, DType::F32),
        None => Tensor::zeros([1, 1], (&q.device(), DType::F32)),
    };
    let [prompt_k, prompt_v] = prompt.map(Tensor::into_dispatch);
    let [step_k, step_v] = made.map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::beam_attention(
        q.into_dispatch(),
        prompt_k,
        prompt_v,
        step_k,
        step_v,
        bias.into_dispatch(),
        step.queries.clone().into_dispatch(),
        step.lengths.clone().into_dispatch(),
        history.into_dispatch(),
        size,
        with_bias,
    ))
}

fn ints(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values
        .map(|x| i32::try_from(x).expect("fewer than 2^31 slots and positions"))
        .collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, DType::I32))
}

/// Turns the last dimension by tables that broadcast over the others.
fn turn<const D: usize>(x: Tensor<D>, [cos, sin]: [Tensor<D>; 2]) -> Tensor<D> {
    let dim = x.dims()[D - 1];
    let first = x.clone().narrow(D - 1, 0, dim / 2);
    let second = x.clone().narrow(D - 1, dim / 2, dim / 2);
    x * cos + Tensor::cat(vec![second.neg(), first], D - 1) * sin
}

/// `x` in floats of type `dtype`.
fn like<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype {
        return x;
    }
    x.cast(FloatDType::from(dtype))
}
