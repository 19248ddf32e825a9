//! The forms a scaling law can take, with exact first and second derivatives.
//!
//! Every form is written for `ln L`, because that is what the fit compares, and its positive
//! parameters are kept as logarithms, so that the search is free of bounds. Sums of terms go through
//! log-sum-exp and neither overflow nor cancel. The derivatives are exact: the fit is a Newton method.
//!
//! Sources: Hoffmann et al. 2022 (joint form and its fit), Kaplan et al. 2020 as used by Fang et al.
//! 2024 (joint form with a shared outer exponent), Caballero et al. 2023 (broken form).

use serde::{Deserialize, Serialize};

use super::elementary::{exp, ln, ln_1p};

/// The most inputs (dials) a law takes: model size, data, beam width.
pub const MAX_INPUTS: usize = 3;

/// The form of a scaling law.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// `L = (A/x)^a`: a power law that falls to zero. k = 2.
    PowerFree,
    /// `L = (A/x)^a + E`: a power law that falls to the floor E. k = 3.
    Power,
    /// `L = [(A/N)^(a/b) + B/D]^b + E`: joint in size and data (Kaplan et al. 2020, with a floor). k = 5.
    Joint,
    /// `L = E + A N^-a + B D^-b`: joint in size and data (Hoffmann et al. 2022). k = 5.
    Chinchilla,
    /// `L = E + A N^-a + B D^-b + G w^-g`: joint in size, data and beam width. k = 7.
    ChinchillaBeam,
    /// `L = E + A N^-a + B D'^-b` with `D' = U (1 + r (1 - exp(-(e - 1)/r)))`: joint in size, unique data U and epochs
    /// e over them (at least 1); repeated data are worth ever less, r epochs of new ones at most (Muennighoff et
    /// al. 2023, section 3). k = 6.
    Reuse,
    /// `M = h / (1 + exp(-(s ln x + c)))`: a measure that saturates at h. k = 3.
    Saturating,
    /// `M = h / (1 + exp(-(s ln N + t ln D + c)))`: a saturating measure, joint in size and data. k = 4.
    SaturatingJoint,
    /// `M = h / (1 + exp(-(s ln N + t ln D + u ln w + c)))`: joint in size, data and beam width. k = 5.
    SaturatingBeam,
    /// `L = E + B x^-a (1 + (x/d)^(1/f))^(-b f)`: one smooth break at d, from slope a to a + b (Caballero et al.
    /// 2023, equation 1 with n = 1). k = 6: a last resort, for curves that one power cannot follow.
    Broken,
}

impl Law {
    /// Every law, simplest first.
    pub const ALL: [Law; 10] = [
        Law::PowerFree,
        Law::Power,
        Law::Saturating,
        Law::SaturatingJoint,
        Law::SaturatingBeam,
        Law::Joint,
        Law::Chinchilla,
        Law::Reuse,
        Law::Broken,
        Law::ChinchillaBeam,
    ];

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Law::PowerFree => "power-free",
            Law::Power => "power",
            Law::Joint => "joint",
            Law::Chinchilla => "chinchilla",
            Law::ChinchillaBeam => "chinchilla-beam",
            Law::Reuse => "reuse",
            Law::Saturating => "saturating",
            Law::SaturatingJoint => "saturating-joint",
            Law::SaturatingBeam => "saturating-beam",
            Law::Broken => "broken",
        }
    }

    /// The law called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Law> {
        Law::ALL.into_iter().find(|law| law.name() == name)
    }

    /// Number of free parameters, k.
    pub fn num_params(self) -> usize {
        self.param_names().len()
    }

    /// Number of inputs: 1 (any dial), 2 (size, data) or 3 (size, data, beam width).
    pub fn num_inputs(self) -> usize {
        match self {
            Law::PowerFree | Law::Power | Law::Saturating | Law::Broken => 1,
            Law::Joint | Law::Chinchilla | Law::SaturatingJoint => 2,
            Law::ChinchillaBeam | Law::Reuse | Law::SaturatingBeam => 3,
        }
    }

    /// Names of the natural parameters, in the order of [`Law::natural`].
    pub fn param_names(self) -> &'static [&'static str] {
        match self {
            Law::PowerFree => &["A", "a"],
            Law::Power => &["A", "a", "E"],
            Law::Joint => &["A", "a", "B", "b", "E"],
            Law::Chinchilla => &["A", "a", "B", "b", "E"],
            Law::ChinchillaBeam => &["A", "a", "B", "b", "G", "g", "E"],
            Law::Reuse => &["A", "a", "B", "b", "r", "E"],
            Law::Saturating => &["h", "s", "c"],
            Law::SaturatingJoint => &["h", "s", "t", "c"],
            Law::SaturatingBeam => &["h", "s", "t", "u", "c"],
            Law::Broken => &["B", "a", "b", "d", "f", "E"],
        }
    }

    /// The formula for inputs called `symbols`, in plain characters, e.g. `L(N) = (A/N)^a + E`.
    ///
    /// Panics if there are fewer symbols than inputs.
    pub fn formula(self, symbols: &[&str]) -> String {
        match self {
            Law::PowerFree => format!("L({0}) = (A/{0})^a", symbols[0]),
            Law::Power => format!("L({0}) = (A/{0})^a + E", symbols[0]),
            Law::Joint => format!(
                "L({0}, {1}) = [(A/{0})^(a/b) + B/{1}]^b + E",
                symbols[0], symbols[1]
            ),
            Law::Chinchilla => {
                format!(
                    "L({0}, {1}) = E + A {0}^-a + B {1}^-b",
                    symbols[0], symbols[1]
                )
            }
            Law::ChinchillaBeam => format!(
                "L({0}, {1}, {2}) = E + A {0}^-a + B {1}^-b + G {2}^-g",
                symbols[0], symbols[1], symbols[2]
            ),
            Law::Reuse => format!(
                "L({0}, {1}, {2}) = E + A {0}^-a + B ({1} (1 + r (1 - exp(-({2} - 1)/r))))^-b",
                symbols[0], symbols[1], symbols[2]
            ),
            Law::Saturating | Law::SaturatingJoint | Law::SaturatingBeam => {
                let names = self.param_names()[1..].iter().zip(symbols);
                let terms: Vec<String> = names.map(|(p, x)| format!("{p} ln {x}")).collect();
                let inputs = symbols[..self.num_inputs()].join(", ");
                format!(
                    "M({inputs}) = h / (1 + exp(-({} + c)))",
                    terms[..self.num_inputs()].join(" + ")
                )
            }
            Law::Broken => format!(
                "L({0}) = E + B {0}^-a (1 + ({0}/d)^(1/f))^(-b f)",
                symbols[0]
            ),
        }
    }

    /// True for a measure that rises to a ceiling, false for a loss that falls.
    pub fn saturates(self) -> bool {
        self.param_names()[0] == "h"
    }

    /// True if input `input` (0-based) counts from one, so that its unit is not free: the epochs of [`Law::Reuse`].
    pub fn counts_from_one(self, input: usize) -> bool {
        self == Law::Reuse && input == 2
    }

    /// True if the law has a floor E.
    pub fn has_floor(self) -> bool {
        self.param_names().last() == Some(&"E")
    }

    /// Natural parameters of the search point `theta`, named by [`Law::param_names`].
    ///
    /// `A` of the power laws is a scale in units of x and is infinite or meaningless when the exponent is zero.
    pub fn natural(self, theta: &[f64]) -> Vec<f64> {
        match self {
            Law::PowerFree => vec![(theta[0] / theta[1]).exp(), theta[1]],
            Law::Power => vec![(theta[0] / theta[1]).exp(), theta[1], theta[2].exp()],
            Law::Joint => vec![
                (theta[0] / theta[1]).exp(),
                theta[1] * theta[3].exp(),
                theta[2].exp(),
                theta[3].exp(),
                theta[4].exp(),
            ],
            Law::Chinchilla | Law::ChinchillaBeam => theta
                .iter()
                .enumerate()
                .map(|(i, &t)| if i % 2 == 0 { t.exp() } else { t })
                .collect(),
            Law::Saturating | Law::SaturatingJoint | Law::SaturatingBeam => {
                let mut natural = theta.to_vec();
                natural[0] = theta[0].exp();
                natural
            }
            Law::Reuse => (theta.iter().enumerate())
                .map(|(i, &t)| if matches!(i, 1 | 3) { t } else { t.exp() })
                .collect(),
            Law::Broken => vec![
                theta[0].exp(),
                theta[1],
                theta[2],
                theta[3].exp(),
                theta[4].exp(),
                theta[5].exp(),
            ],
        }
    }

    /// The search point of natural parameters: the inverse of [`Law::natural`].
    pub fn theta(self, natural: &[f64]) -> Vec<f64> {
        match self {
            Law::PowerFree => vec![natural[1] * natural[0].ln(), natural[1]],
            Law::Power => vec![natural[1] * natural[0].ln(), natural[1], natural[2].ln()],
            Law::Joint => {
                let ratio = natural[1] / natural[3];
                let scale = ratio * natural[0].ln();
                vec![
                    scale,
                    ratio,
                    natural[2].ln(),
                    natural[3].ln(),
                    natural[4].ln(),
                ]
            }
            Law::Chinchilla | Law::ChinchillaBeam => natural
                .iter()
                .enumerate()
                .map(|(i, &p)| if i % 2 == 0 { p.ln() } else { p })
                .collect(),
            Law::Saturating | Law::SaturatingJoint | Law::SaturatingBeam => {
                let mut theta = natural.to_vec();
                theta[0] = natural[0].ln();
                theta
            }
            Law::Reuse => (natural.iter().enumerate())
                .map(|(i, &p)| if matches!(i, 1 | 3) { p } else { p.ln() })
                .collect(),
            Law::Broken => vec![
                natural[0].ln(),
                natural[1],
                natural[2],
                natural[3].ln(),
                natural[4].ln(),
                natural[5].ln(),
            ],
        }
    }

    /// `theta` for inputs divided by `exp(centre)`: the law's values stay what they were. An input that counts from
    /// one stays where it is.
    pub(super) fn recentred(self, theta: &[f64], centre: &[f64; MAX_INPUTS]) -> Vec<f64> {
        let mut moved = theta.to_vec();
        match self {
            Law::PowerFree | Law::Power => moved[0] -= theta[1] * centre[0],
            Law::Joint => {
                moved[0] -= theta[1] * centre[0];
                moved[2] -= centre[1];
            }
            Law::Chinchilla | Law::ChinchillaBeam => {
                for (j, centre) in centre.iter().enumerate().take(self.num_inputs()) {
                    moved[2 * j] -= theta[2 * j + 1] * centre;
                }
            }
            Law::Reuse => {
                moved[0] -= theta[1] * centre[0];
                moved[2] -= theta[3] * centre[1];
            }
            Law::Saturating | Law::SaturatingJoint | Law::SaturatingBeam => {
                let inputs = self.num_inputs();
                for (j, centre) in centre.iter().enumerate().take(inputs) {
                    moved[inputs + 1] += theta[1 + j] * centre;
                }
            }
            Law::Broken => {
                moved[0] -= theta[1] * centre[0];
                moved[3] -= centre[0];
            }
        }
        moved
    }

    /// `ln L` at inputs `x` (positive, as many as [`Law::num_inputs`]).
    pub fn ln_value(self, theta: &[f64], x: &[f64]) -> f64 {
        let mut ln_x = [0.0; MAX_INPUTS];
        for (slot, value) in ln_x.iter_mut().zip(x) {
            *slot = value.ln();
        }
        with_form!(
            self,
            F,
            K,
            <F as Form<K>>::at(&fixed::<K>(theta), &ln_x).value
        )
    }

    /// `L` at inputs `x`.
    pub fn value(self, theta: &[f64], x: &[f64]) -> f64 {
        self.ln_value(theta, x).exp()
    }
}

/// Runs `$body` with the form of `$law` as type `$form` and its number of parameters as constant `$k`.
macro_rules! with_form {
    ($law:expr, $form:ident, $k:ident, $body:expr) => {{
        use $crate::scaling::laws as forms;
        macro_rules! arm {
            ($type:ty, $count:literal) => {{
                type $form = $type;
                const $k: usize = $count;
                $body
            }};
        }
        match $law {
            forms::Law::PowerFree => arm!(forms::PowerFree, 2),
            forms::Law::Power => arm!(forms::Power, 3),
            forms::Law::Joint => arm!(forms::Joint, 5),
            forms::Law::Chinchilla => arm!(forms::Sum<2>, 5),
            forms::Law::ChinchillaBeam => arm!(forms::Sum<3>, 7),
            forms::Law::Reuse => arm!(forms::Reuse, 6),
            forms::Law::Saturating => arm!(forms::Saturating<1>, 3),
            forms::Law::SaturatingJoint => arm!(forms::Saturating<2>, 4),
            forms::Law::SaturatingBeam => arm!(forms::Saturating<3>, 5),
            forms::Law::Broken => arm!(forms::Broken, 6),
        }
    }};
}
pub(super) use with_form;

/// `theta` as an array of its law's length.
pub(super) fn fixed<const K: usize>(theta: &[f64]) -> [f64; K] {
    theta
        .try_into()
        .expect("a search point has as many values as its law has parameters")
}

/// Runs `$body` for every row `$r` and column `$c` of a lower triangle of `$k` rows; as a square loop, which the
/// compiler unrolls whole, and as a macro, since a closure is compiled for the smallest registers.
macro_rules! lower {
    ($k:expr, $r:ident, $c:ident, $body:expr) => {
        for $r in 0..$k {
            for $c in 0..$k {
                if $c <= $r {
                    $body;
                }
            }
        }
    };
}
pub(super) use lower;

/// `ln L` of one point with its derivatives in theta.
pub(super) struct Local<const K: usize> {
    pub value: f64,
    pub gradient: [f64; K],
    /// Second derivatives; only the lower triangle is filled.
    pub hessian: [[f64; K]; K],
}

/// A law with K parameters as a function of theta.
pub(super) trait Form<const K: usize> {
    fn at(theta: &[f64; K], ln_x: &[f64; MAX_INPUTS]) -> Local<K>;
}

pub(super) struct PowerFree;
pub(super) struct Power;
pub(super) struct Joint;
/// A ceiling times a logistic function of INPUTS logarithms: theta = (ln h, s, .., c).
pub(super) struct Saturating<const INPUTS: usize>;
pub(super) struct Reuse;
pub(super) struct Broken;
/// Sum of TERMS falling powers and a floor: theta = (ln A, a, ln B, b, .., ln E).
pub(super) struct Sum<const TERMS: usize>;

impl Form<2> for PowerFree {
    #[inline(always)]
    fn at(theta: &[f64; 2], ln_x: &[f64; MAX_INPUTS]) -> Local<2> {
        let x = ln_x[0];
        Local {
            value: theta[0] - theta[1] * x,
            gradient: [1.0, -x],
            hessian: [[0.0; 2]; 2],
        }
    }
}

impl Form<3> for Power {
    #[inline(always)]
    fn at(theta: &[f64; 3], ln_x: &[f64; MAX_INPUTS]) -> Local<3> {
        <Sum<1> as Form<3>>::at(theta, ln_x)
    }
}

impl<const TERMS: usize, const K: usize> Form<K> for Sum<TERMS> {
    #[inline(always)]
    fn at(theta: &[f64; K], ln_x: &[f64; MAX_INPUTS]) -> Local<K> {
        const { assert!(K == 2 * TERMS + 1) }
        let floor = theta[K - 1];
        let mut share = [0.0; TERMS];
        let mut top = floor;
        for j in 0..TERMS {
            share[j] = theta[2 * j] - theta[2 * j + 1] * ln_x[j];
            top = top.max(share[j]);
        }
        let floor_share = exp(floor - top);
        let mut sum = floor_share;
        #[allow(clippy::needless_range_loop)] // an iterator is not unrolled here
        for j in 0..TERMS {
            share[j] = exp(share[j] - top);
            sum += share[j];
        }
        let mut gradient = [0.0; K];
        let mut hessian = [[0.0; K]; K];
        let whole = 1.0 / sum;
        for j in 0..TERMS {
            let (p, x) = (share[j] * whole, ln_x[j]);
            gradient[2 * j] = p;
            gradient[2 * j + 1] = -p * x;
            hessian[2 * j][2 * j] = p;
            hessian[2 * j + 1][2 * j] = -p * x;
            hessian[2 * j + 1][2 * j + 1] = p * x * x;
        }
        gradient[K - 1] = floor_share * whole;
        hessian[K - 1][K - 1] = gradient[K - 1];
        lower!(K, r, c, hessian[r][c] -= gradient[r] * gradient[c]);
        Local {
            value: top + ln(sum),
            gradient,
            hessian,
        }
    }
}

impl Form<5> for Joint {
    /// theta = (p ln A, p, ln B, ln b, ln E) with p = a/b; ln L = lse(b u, ln E), u = lse(p ln A - p ln N, ln B - ln D).
    #[inline(always)]
    fn at(theta: &[f64; 5], ln_x: &[f64; MAX_INPUTS]) -> Local<5> {
        let size = theta[0] - theta[1] * ln_x[0];
        let data = theta[2] - ln_x[1];
        let top = size.max(data);
        let (size_part, data_part) = (exp(size - top), exp(data - top));
        let inner = top + ln(size_part + data_part);
        let q = size_part / (size_part + data_part);
        let b = exp(theta[3]);
        let power = b * inner;

        // First and second derivatives of `power`.
        let du = [q, -q * ln_x[0], 1.0 - q];
        let first = [b * du[0], b * du[1], b * du[2], power];
        let spread = b * q * (1.0 - q);
        let direction = [1.0, -ln_x[0], -1.0];
        let mut second = [[0.0; 4]; 4];
        lower!(3, r, c, second[r][c] = spread * direction[r] * direction[c]);
        second[3][..3].copy_from_slice(&first[..3]);
        second[3][3] = power;

        let top = power.max(theta[4]);
        let (power_part, floor_part) = (exp(power - top), exp(theta[4] - top));
        let sum = power_part + floor_part;
        let p = power_part / sum;
        let mut gradient = [0.0; 5];
        let mut hessian = [[0.0; 5]; 5];
        lower!(
            4,
            r,
            c,
            hessian[r][c] = p * (second[r][c] + (1.0 - p) * first[r] * first[c])
        );
        for r in 0..4 {
            gradient[r] = p * first[r];
            hessian[4][r] = -p * (1.0 - p) * first[r];
        }
        gradient[4] = 1.0 - p;
        hessian[4][4] = p * (1.0 - p);
        Local {
            value: top + ln(sum),
            gradient,
            hessian,
        }
    }
}

impl Form<6> for Reuse {
    /// theta = (ln A, a, ln B, b, ln r, ln E); ln L = lse(ln A - a ln N, ln B - b (ln U + g), ln E) with g = ln(1 + h),
    /// h = r (1 - exp(-(e - 1) / r)).
    #[inline(always)]
    fn at(theta: &[f64; 6], ln_x: &[f64; MAX_INPUTS]) -> Local<6> {
        let [size_scale, a, data_scale, b, ln_r, floor] = *theta;
        // Beyond these every epoch is as good as the first, or worth nothing.
        let r = exp(ln_r.clamp(-40.0, 40.0));
        let repeated = exp(ln_x[2]) - 1.0;
        let u = (if repeated > 0.0 { repeated } else { 0.0 }) / r;
        let left = exp(-u);
        let gained = one_minus_exp(u);
        let whole = 1.0 / (1.0 + r * gained);
        // g and its first and second derivative in ln r.
        let g = ln_1p(r * gained);
        let slope = r * (gained - u * left);
        let first_g = slope * whole;
        let second_g = (slope - r * u * u * left) * whole - first_g * first_g;

        let size = size_scale - a * ln_x[0];
        let along = ln_x[1] + g;
        let data = data_scale - b * along;
        let top = size.max(data).max(floor);
        let parts = [exp(size - top), exp(data - top), exp(floor - top)];
        let sum = parts[0] + parts[1] + parts[2];
        let whole = 1.0 / sum;
        let (p, q) = (parts[0] * whole, parts[1] * whole);
        let first = [1.0, -along, -b * first_g];
        let gradient = [
            p,
            -p * ln_x[0],
            q,
            q * first[1],
            q * first[2],
            parts[2] * whole,
        ];
        let mut hessian = [[0.0; 6]; 6];
        hessian[0][0] = p;
        hessian[1][0] = gradient[1];
        hessian[1][1] = -gradient[1] * ln_x[0];
        lower!(3, r, c, hessian[2 + r][2 + c] = q * first[r] * first[c]);
        hessian[4][3] -= q * first_g;
        hessian[4][4] -= q * b * second_g;
        hessian[5][5] = gradient[5];
        lower!(6, r, c, hessian[r][c] -= gradient[r] * gradient[c]);
        Local {
            value: top + ln(sum),
            gradient,
            hessian,
        }
    }
}

/// 1 - e^-u of u >= 0, exact for small u too: by its series below 1/32.
#[inline(always)]
fn one_minus_exp(u: f64) -> f64 {
    let mut series = 1.0;
    let mut i = 9.0;
    for _ in 0..8 {
        series = 1.0 - u / i * series;
        i -= 1.0;
    }
    if u < 0.03125 {
        u * series
    } else {
        1.0 - exp(-u)
    }
}

/// ln(1 + e^z) and its derivative, without overflow.
#[inline(always)]
fn softplus(z: f64) -> (f64, f64) {
    let e = exp(-z.abs());
    let logistic = (if z >= 0.0 { 1.0 } else { e }) / (1.0 + e);
    (z.max(0.0) + ln_1p(e), logistic)
}

impl<const INPUTS: usize, const K: usize> Form<K> for Saturating<INPUTS> {
    /// ln M = ln h - ln(1 + exp(-z)), z = s . ln x + c.
    #[inline(always)]
    fn at(theta: &[f64; K], ln_x: &[f64; MAX_INPUTS]) -> Local<K> {
        const { assert!(K == INPUTS + 2) }
        // The derivatives of z: the logarithms, and 1 for c.
        let mut along = [1.0; K];
        along[1..=INPUTS].copy_from_slice(&ln_x[..INPUTS]);
        let z: f64 = (1..K).map(|i| theta[i] * along[i]).sum();
        let (below, share) = softplus(-z);
        let bend = -share * (1.0 - share);
        let mut gradient = [1.0; K];
        let mut hessian = [[0.0; K]; K];
        for r in 1..K {
            gradient[r] = share * along[r];
        }
        lower!(
            K,
            r,
            c,
            if c > 0 {
                hessian[r][c] = bend * along[r] * along[c];
            }
        );
        Local {
            value: theta[0] - below,
            gradient,
            hessian,
        }
    }
}

impl Form<6> for Broken {
    /// theta = (ln B, a, b, ln d, ln f, ln E); ln L = lse(g, ln E), g = ln B - a ln x - b f ln(1 + e^u) with
    /// u = (ln x - ln d) / f.
    #[inline(always)]
    fn at(theta: &[f64; 6], ln_x: &[f64; MAX_INPUTS]) -> Local<6> {
        let [scale, a, b, break_at, ln_f, floor] = *theta;
        let x = ln_x[0];
        // Beyond these the break is a corner or no break at all.
        let f = exp(ln_f.clamp(-40.0, 40.0));
        let u = (x - break_at) / f;
        let (plus, s) = softplus(u);
        let falling = scale - a * x - b * f * plus;
        let bend = s * (1.0 - s);
        let turn = f * (s * u - plus);
        let first = [1.0, -x, -f * plus, b * s, b * turn];
        let mut second = [[0.0; 5]; 5];
        second[3][2] = s;
        second[4][2] = turn;
        second[3][3] = -b * bend / f;
        second[4][3] = -b * bend * u;
        second[4][4] = b * (turn - f * bend * u * u);

        let top = falling.max(floor);
        let (part, rest) = (exp(falling - top), exp(floor - top));
        let sum = part + rest;
        let p = part / sum;
        let mut gradient = [0.0; 6];
        let mut hessian = [[0.0; 6]; 6];
        lower!(
            5,
            r,
            c,
            hessian[r][c] = p * (second[r][c] + (1.0 - p) * first[r] * first[c])
        );
        for r in 0..5 {
            gradient[r] = p * first[r];
            hessian[5][r] = -p * (1.0 - p) * first[r];
        }
        gradient[5] = 1.0 - p;
        hessian[5][5] = p * (1.0 - p);
        Local {
            value: top + ln(sum),
            gradient,
            hessian,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(law: Law) -> (Vec<f64>, Vec<f64>) {
        let natural = match law {
            Law::PowerFree => vec![3.0e4, 0.53],
            Law::Power => vec![3.0e4, 0.53, 0.04],
            Law::Joint => vec![3.0e4, 0.53, 3.5e3, 0.9, 0.04],
            Law::Chinchilla => vec![477.83, 0.34731, 2143.4, 0.36717, 1.81722],
            Law::ChinchillaBeam => vec![477.83, 0.34731, 2143.4, 0.36717, 0.8, 0.6, 1.81722],
            Law::Reuse => vec![477.83, 0.34731, 2143.4, 0.36717, 15.4, 1.81722],
            Law::Saturating => vec![0.9, 0.4, -7.0],
            Law::SaturatingJoint => vec![0.9, 0.4, 0.2, -11.0],
            Law::SaturatingBeam => vec![0.9, 0.4, 0.2, 0.5, -12.0],
            Law::Broken => vec![300.0, 0.2, 0.3, 1.0e7, 0.8, 0.5],
        };
        let x = [2.0e7, 3.0e8, 10.0][..law.num_inputs()].to_vec();
        (natural, x)
    }

    #[test]
    fn values_match_the_formulas_written_out() {
        let x = 1.0e6_f64;
        let at = |law: Law, natural: &[f64], x: &[f64]| law.value(&law.theta(natural), x);
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        close(at(Law::PowerFree, &[2.0e6, 0.5], &[x]), 2.0_f64.sqrt());
        close(at(Law::Power, &[4.0e6, 0.5, 0.25], &[x]), 2.25);
        close(
            at(Law::Chinchilla, &[1000.0, 0.5, 10.0, 1.0, 1.5], &[x, 10.0]),
            3.5,
        );
        close(
            at(
                Law::ChinchillaBeam,
                &[1000.0, 0.5, 10.0, 1.0, 2.0, 0.5, 1.5],
                &[x, 10.0, 16.0],
            ),
            4.0,
        );
        // 8 epochs of 100 when none but the first is worth anything, and when all are worth the same.
        close(
            at(
                Law::Reuse,
                &[1000.0, 0.5, 10.0, 0.5, 1e-14, 1.5],
                &[x, 100.0, 8.0],
            ),
            3.5,
        );
        close(
            at(
                Law::Reuse,
                &[1000.0, 0.5, 10.0, 1.0, 1e15, 1.5],
                &[x, 100.0, 8.0],
            ),
            2.5 + 10.0 / 800.0,
        );
        // r = 1, 1 + ln 2 epochs: D' = 100 (1 + 1/2)
        close(
            at(
                Law::Reuse,
                &[1000.0, 0.5, 15.0, 1.0, 1.0, 1.5],
                &[x, 100.0, 1.0 + 2f64.ln()],
            ),
            2.6,
        );
        // [(4e6/1e6)^(1/2) + 2/1]^2 + 1 = 17
        close(
            at(Law::Joint, &[4.0e6, 1.0, 2.0, 2.0, 1.0], &[x, 1.0]),
            17.0,
        );
        close(at(Law::Saturating, &[0.8, 1.0, 0.0], &[3.0]), 0.8 * 0.75);
        close(
            at(Law::SaturatingJoint, &[0.8, 1.0, 0.5, 0.0], &[1.5, 4.0]),
            0.8 * 0.75,
        );
        // 4 x^-1 (1 + (x/2)^(1/0.5))^(-2 0.5) + 1 at x = 2: 2 / 2 + 1
        close(
            at(Law::Broken, &[4.0, 1.0, 2.0, 2.0, 0.5, 1.0], &[2.0]),
            2.0,
        );
    }

    #[test]
    fn natural_and_theta_are_inverse() {
        for law in Law::ALL {
            let (natural, _) = example(law);
            assert_eq!(natural.len(), law.num_params());
            for (a, b) in law.natural(&law.theta(&natural)).iter().zip(&natural) {
                assert!((a / b - 1.0).abs() < 1e-12, "{law:?}");
            }
            assert_eq!(Law::from_name(law.name()), Some(law));
        }
    }

    #[test]
    fn recentring_keeps_the_values() {
        for law in Law::ALL {
            let (natural, x) = example(law);
            let theta = law.theta(&natural);
            let centre = [3.0, -2.0, 0.5];
            let centre = std::array::from_fn(|i| {
                if law.counts_from_one(i) {
                    0.0
                } else {
                    centre[i]
                }
            });
            let moved = law.recentred(&theta, &centre);
            let moved_x: Vec<f64> = x.iter().zip(&centre).map(|(x, c)| x / c.exp()).collect();
            let (before, after) = (law.ln_value(&theta, &x), law.ln_value(&moved, &moved_x));
            assert!((before - after).abs() < 1e-12, "{law:?}");
        }
    }

    #[test]
    fn derivatives_match_finite_differences() {
        for law in Law::ALL {
            let (natural, x) = example(law);
            let theta = law.theta(&natural);
            with_form!(law, F, K, {
                let ln_x = std::array::from_fn(|i| x.get(i).map_or(0.0, |v| v.ln()));
                let at = |theta: &[f64]| <F as Form<K>>::at(&fixed::<K>(theta), &ln_x);
                let local = at(&theta);
                let step = 1e-5;
                for r in 0..K {
                    let (mut up, mut down) = (theta.clone(), theta.clone());
                    up[r] += step;
                    down[r] -= step;
                    let (up, down) = (at(&up), at(&down));
                    let slope = (up.value - down.value) / (2.0 * step);
                    assert!(
                        (slope - local.gradient[r]).abs() < 1e-6 * (1.0 + slope.abs()),
                        "{law:?} {r}"
                    );
                    for c in 0..K {
                        let curve = (up.gradient[c] - down.gradient[c]) / (2.0 * step);
                        let exact = local.hessian[r.max(c)][r.min(c)];
                        assert!(
                            (curve - exact).abs() < 1e-5 * (1.0 + curve.abs()),
                            "{law:?} {r} {c}"
                        );
                    }
                }
            });
        }
    }

    #[test]
    fn extreme_search_points_stay_finite() {
        for law in Law::ALL {
            for scale in [-700.0, -1.0, 0.0, 1.0, 700.0] {
                if matches!(law, Law::Joint | Law::Broken) && scale > 1.0 {
                    continue; // b, f = exp(700): the value itself is beyond f64
                }
                let theta = vec![scale; law.num_params()];
                let value = law.ln_value(&theta, &[1e12, 1e12, 100.0][..law.num_inputs()]);
                assert!(!value.is_nan(), "{law:?} {scale}");
            }
        }
    }
}
