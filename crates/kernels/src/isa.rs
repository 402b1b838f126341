//! Which instruction set the kernels use, found once at run time.

use std::cmp::Ordering;
use std::fmt;
use std::sync::OnceLock;

/// An instruction-set level.
///
/// Levels of one architecture are ordered: a CPU that has one has all those below it. Those of different architectures
/// are not, so that a comparison between them is false either way; [`Isa::Scalar`] is below all others. `isa <=
/// Isa::detect()` therefore says whether this machine offers `isa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable code, and the reference that the others are tested against.
    Scalar,
    /// x86-64: AVX2 with FMA.
    Avx2,
    /// x86-64: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64: AVX-512 and AMX with bf16 tiles; used where reduced precision is allowed.
    Amx,
    /// 64-bit ARM: NEON.
    Neon,
    /// WebAssembly: simd128, chosen when the module is compiled.
    Simd128,
    /// WebAssembly: simd128 and relaxed-simd, chosen when the module is compiled.
    RelaxedSimd,
}

impl Isa {
    /// Every level of every architecture; those of one stand together, lowest first.
    pub const ALL: [Isa; 7] =
        [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon, Isa::Simd128, Isa::RelaxedSimd];

    /// The name used by `SUPPLE_ISA` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Simd128 => "simd128",
            Isa::RelaxedSimd => "relaxed-simd",
        }
    }

    /// The level called `name`, if there is one.
    pub fn parse(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The best level that this CPU and operating system offer.
    pub fn detect() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// Levels that this CPU offers, lowest first. Tests run each of them.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this CPU offers the level.
    pub fn is_available(self) -> bool {
        self <= Isa::detect()
    }

    /// The level to use: `SUPPLE_ISA` if it is set and this CPU offers it, else the best.
    ///
    /// # Errors
    /// The text says which names are known and what this CPU offers.
    pub fn from_env() -> Result<Isa, String> {
        let Ok(name) = std::env::var("SUPPLE_ISA") else { return Ok(Isa::detect()) };
        let best = Isa::detect();
        match Isa::parse(&name) {
            Some(isa) if isa <= best => Ok(isa),
            Some(isa) => Err(format!("SUPPLE_ISA={isa} asks for more than this CPU offers ({best})")),
            None => Err(format!("SUPPLE_ISA={name} is not one of {}", Isa::ALL.map(Isa::name).join(", "))),
        }
    }

    fn architecture(self) -> Architecture {
        match self {
            Isa::Scalar => Architecture::Any,
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => Architecture::X86,
            Isa::Neon => Architecture::Arm,
            Isa::Simd128 | Isa::RelaxedSimd => Architecture::WebAssembly,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Any,
    X86,
    Arm,
    WebAssembly,
}

impl PartialOrd for Isa {
    fn partial_cmp(&self, other: &Isa) -> Option<Ordering> {
        let (this, that) = (self.architecture(), other.architecture());
        let comparable = this == that || this == Architecture::Any || that == Architecture::Any;
        // Variants are declared lowest first.
        comparable.then(|| (*self as u8).cmp(&(*other as u8)))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (false, _) => Isa::Scalar,
        (true, false) => Isa::Avx2,
        (true, true) if is_x86_feature_detected!("avx512bf16") && crate::gemm::amx::works() => Isa::Amx,
        (true, true) => Isa::Avx512,
    }
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Isa {
    Isa::Neon
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn detect() -> Isa {
    if cfg!(target_feature = "relaxed-simd") { Isa::RelaxedSimd } else { Isa::Simd128 }
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
)))]
fn detect() -> Isa {
    Isa::Scalar
}

/// Whether this is an ARM CPU that sums products of four bytes by one instruction (`sdot`: FEAT_DotProd).
pub fn has_dotprod() -> bool {
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(target_arch = "aarch64"))]
    let found = false;
    found
}

/// Whether this is an ARM CPU that multiplies matrices of bytes (`smmla`: FEAT_I8MM).
pub fn has_i8mm() -> bool {
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("i8mm");
    #[cfg(not(target_arch = "aarch64"))]
    let found = false;
    found
}

/// Whether this is an ARM CPU that computes with vectors of half-precision floats (FEAT_FP16).
pub fn has_fp16() -> bool {
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("fp16");
    #[cfg(not(target_arch = "aarch64"))]
    let found = false;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(isa.name()), Some(isa));
        }
        assert_eq!(Isa::parse("mmx"), None);
    }

    #[test]
    fn levels_are_ordered_within_an_architecture_and_only_there() {
        let chains: [&[Isa]; 3] =
            [&[Isa::Avx2, Isa::Avx512, Isa::Amx], &[Isa::Neon], &[Isa::Simd128, Isa::RelaxedSimd]];
        for (a, b) in Isa::ALL.iter().flat_map(|a| Isa::ALL.iter().map(move |b| (a, b))) {
            let below = |chain: &&[Isa]| {
                let place = |isa| chain.iter().position(|other| other == isa);
                place(a).zip(place(b)).is_some_and(|(a, b)| a < b)
            };
            let wanted = (*a == Isa::Scalar && *b != Isa::Scalar) || chains.iter().any(below);
            assert_eq!(a < b, wanted, "{a} < {b}");
            assert_eq!(b > a, wanted, "{b} > {a}");
            assert_eq!(a <= b, wanted || a == b, "{a} <= {b}");
        }
    }

    #[test]
    fn this_machine_offers_levels_of_its_own_architecture() {
        let offered: Vec<Isa> = Isa::available().collect();
        println!("{offered:?}; dotprod {}, i8mm {}, fp16 {}", has_dotprod(), has_i8mm(), has_fp16());
        assert_eq!(offered.first(), Some(&Isa::Scalar));
        assert_eq!(offered.last(), Some(&Isa::detect()));
        let elsewhere = |isa: Isa| match isa.architecture() {
            Architecture::Any => false,
            Architecture::X86 => !cfg!(target_arch = "x86_64"),
            Architecture::Arm => !cfg!(target_arch = "aarch64"),
            Architecture::WebAssembly => !cfg!(target_arch = "wasm32"),
        };
        assert!(!offered.iter().any(|&isa| elsewhere(isa)));
        assert_eq!(offered.contains(&Isa::Neon), cfg!(target_arch = "aarch64"));
        assert_eq!(offered.contains(&Isa::Simd128), cfg!(target_feature = "simd128"));
        assert_eq!(offered.contains(&Isa::RelaxedSimd), cfg!(target_feature = "relaxed-simd"));
    }
}
