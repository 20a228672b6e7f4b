//! Polynomials and split constants of the expansions.
//!
//! The polynomials are minimax fits by Lawson's iteration on Chebyshev points at 50 digits, of the functions and intervals
//! named at each field; the error is relative to the function they serve, before rounding the coefficients.

/// The numbers of one float type.
pub(super) struct Coefficients {
    /// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
    pub(super) ln2: [f64; 2],
    /// pi/2 in parts of full precision.
    pub(super) half_pi: [f64; 3],
    /// pi in two parts.
    pub(super) pi: [f64; 2],
    /// pi/4 in two parts.
    pub(super) quarter_pi: [f64; 2],
    /// 2/3 in two parts.
    pub(super) two_thirds: [f64; 2],
    /// The bits of the square root of 1/2: significands are taken from there up to the square root of 2.
    pub(super) sqrt_half_bits: i64,
    /// The bits of 1.
    pub(super) one_bits: i64,
    /// The least normal number.
    pub(super) least_normal: f64,
    /// Below this, odd functions with slope 1 at 0 are their argument; far above the denormals.
    pub(super) tiny: f64,
    /// Arguments of exp beyond which the result is 0 or infinite.
    pub(super) exp_range: [f64; 2],
    /// The argument of expm1 below which the result is -1.
    pub(super) expm1_low: f64,
    /// The argument of sinh and cosh above which the result is infinite.
    pub(super) cosh_high: f64,
    /// `(exp(r) - 1 - r) / r^2` for |r| up to ln(2)/2: 2^-26 (f32) and 2^-62 (f64) of expm1.
    pub(super) exp: &'static [f64],
    /// f32: `(log(1 + f) - f + f^2/2) / f^3` from sqrt(1/2) to sqrt(2), less 1: 2^-27 of log.
    /// f64: `(2 atanh(s) - 2 s) / s^3` in `s^2`, `s = f / (2 + f)`, after fdlibm's e_log.c: 2^-59 of log.
    pub(super) log: &'static [f64],
    /// `(2 atanh(s) - 2 s) / s^3` in `s^2`: 2^-30 (f32) and 2^-59 (f64) of log, for pow.
    pub(super) atanh: &'static [f64],
    /// `(sin(r) - r) / r^3` in `r^2`, r up to pi/4: 2^-28 (f32) and 2^-58 (f64) of sin.
    pub(super) sin: &'static [f64],
    /// `(cos(r) - 1 + r^2/2) / r^4` in `r^2`, r up to pi/4: 2^-33 (f32) and 2^-64 (f64) of cos.
    pub(super) cos: &'static [f64],
    /// `(atan(r) - r) / r^3` in `r^2`, r up to tan(pi/8): 2^-30 (f32) and 2^-64 (f64) of atan.
    pub(super) atan: &'static [f64],
    /// `(sinh(r) - r) / r^3` in `r^2`, r up to 1: 2^-34 (f32) and 2^-63 (f64) of sinh.
    pub(super) sinh: &'static [f64],
    /// `erf(r)/r - 1` in `r^2`, r up to 1: 2^-30 (f32) and 2^-63 (f64) of erf.
    pub(super) erf: &'static [f64],
    /// `-log(erfc(r))` in `r - erfc_center`, r from 1 to `erfc_high`: 2^-35 (f32) and 2^-59 (f64) of erf.
    pub(super) erfc: &'static [f64],
    /// The centre of that polynomial.
    pub(super) erfc_center: f64,
    /// From here on erf is 1.
    pub(super) erfc_high: f64,
}

/// binary32.
pub(super) static F32: Coefficients = Coefficients {
    ln2: [0.693145751953125, 1.428606765330187e-06],
    half_pi: [1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15],
    pi: [3.1415927410125732, -8.742277657347586e-08],
    quarter_pi: [0.7853981852531433, -2.1855694143368964e-08],
    two_thirds: [0.6666666865348816, -1.9868215517249155e-08],
    sqrt_half_bits: 0x3f35_04f3,
    one_bits: 0x3f80_0000,
    least_normal: 1.1754943508222875e-38,
    tiny: 1e-30,
    exp_range: [-104.0, 89.0],
    expm1_low: -18.0,
    cosh_high: 89.6,
    exp: &[0.5, 0.1666654348373413, 0.04166628420352936, 0.008366594091057777, 0.001394619233906269],
    log: &[
        0.3333333134651184,
        -0.2500081956386566,
        0.20001213252544403,
        -0.16623425483703613,
        0.14202134311199188,
        -0.13159990310668945,
        0.12758873403072357,
        -0.0763150006532669,
    ],
    atanh: &[0.6666677594184875, 0.3997747004032135, 0.298732727766037],
    sin: &[-0.16666655242443085, 0.00833217054605484, -0.0001951632439158857],
    cos: &[0.04166664555668831, -0.0013887368841096759, 2.4438577383989468e-05],
    atan: &[
        -0.33333316445350647,
        0.19998489320278168,
        -0.14243845641613007,
        0.10595990717411041,
        -0.0608343668282032,
    ],
    sinh: &[0.1666666716337204, 0.008333350531756878, 0.00019836079445667565, 2.8173697046440793e-06],
    erf: &[
        0.12837916612625122,
        -0.3761262595653534,
        0.11283599585294724,
        -0.026854433119297028,
        0.00518951378762722,
        -0.0008020643144845963,
        7.888434629421681e-05,
    ],
    erfc: &[
        5.364941120147705,
        4.418160915374756,
        0.9237509965896606,
        0.016465816646814346,
        -0.003570494707673788,
        0.0007302239537239075,
        -0.0001377245644107461,
        2.1684167222701944e-05,
    ],
    erfc_center: 2.0,
    erfc_high: 4.0,
};

/// binary64.
pub(super) static F64: Coefficients = Coefficients {
    ln2: [0.693147180559663, 2.8235290563031577e-13],
    half_pi: [1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33],
    pi: [3.141592653589793, 1.2246467991473532e-16],
    quarter_pi: [0.7853981633974483, 3.061616997868383e-17],
    two_thirds: [0.6666666666666666, 3.700743415417188e-17],
    sqrt_half_bits: 0x3fe6_a09e_667f_3bcd,
    one_bits: 0x3ff0_0000_0000_0000,
    least_normal: 2.2250738585072014e-308,
    tiny: 1e-290,
    exp_range: [-746.0, 710.0],
    expm1_low: -38.0,
    cosh_high: 710.6,
    exp: &[
        0.5,
        0.16666666666666677,
        0.0416666666666667,
        0.00833333333332157,
        0.0013888888888866895,
        0.0001984126988628176,
        2.4801587360494462e-05,
        2.7557244049416547e-06,
        2.755724278843513e-07,
        2.5109094097714624e-08,
        2.092443883787546e-09,
    ],
    log: ATANH_F64,
    atanh: ATANH_F64,
    sin: &[
        -0.16666666666666632,
        0.008333333333322316,
        -0.0001984126982972449,
        2.7557313661802374e-06,
        -2.505075324486451e-08,
        1.589650531980868e-10,
    ],
    cos: &[
        0.0416666666666666,
        -0.0013888888888874008,
        2.4801587289407256e-05,
        -2.7557314329758427e-07,
        2.087572005901775e-09,
        -1.1359473618700862e-11,
    ],
    atan: &[
        -0.33333333333333326,
        0.1999999999999769,
        -0.14285714285390544,
        0.11111111088338921,
        -0.09090908150413593,
        0.07692282892888333,
        -0.06666228752748156,
        0.05877041443613751,
        -0.05218531435099295,
        0.04504068120037164,
        -0.03348657685591983,
        0.015207504078707386,
    ],
    sinh: &[
        0.16666666666666669,
        0.008333333333333139,
        0.0001984126984143774,
        2.7557319155315724e-06,
        2.5052123402231493e-08,
        1.60572400335764e-10,
        7.759322075234589e-13,
    ],
    erf: &[
        0.1283791670955126,
        -0.3761263890318375,
        0.11283791670954885,
        -0.026866170645077788,
        0.005223977624827565,
        -0.0008548326981374917,
        0.00012055331131078544,
        -1.49255957263466e-05,
        1.6461007731289633e-06,
        -1.635038819316995e-07,
        1.4660273963255089e-08,
        -1.1374741275047598e-09,
        5.960318001532041e-11,
    ],
    erfc: &[
        7.806815272727266,
        5.352680750986432,
        0.943893733524219,
        0.010858072737479064,
        -0.002165476902704453,
        0.00042093256389359073,
        -7.703078156813939e-05,
        1.2755857843359076e-05,
        -1.7690248757614081e-06,
        1.5589964864902098e-07,
        1.2620837620890811e-08,
        -1.085263959989998e-08,
        3.5411590338038453e-09,
        -8.77522114310825e-10,
        1.372726263858464e-10,
        -1.8051233114875415e-11,
        8.829822438898673e-12,
        7.605965834234436e-13,
        -1.038548428394201e-12,
    ],
    erfc_center: 2.5,
    erfc_high: 6.0,
};

const ATANH_F64: &[f64] = &[
    0.6666666666666734,
    0.39999999999414476,
    0.2857142874244437,
    0.22222198566287468,
    0.18183564738604008,
    0.15314038734510776,
    0.14796079081253655,
];
