//! Which instruction set the kernels use, found once at run time.

use std::fmt;
use std::sync::OnceLock;

/// An instruction-set level. Levels are ordered: a CPU that has one has all those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code, and the reference that the others are tested against.
    Scalar,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 and AMX with bf16 tiles; used where reduced precision is allowed.
    Amx,
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name used by `SUPPLE_ISA` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
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
        let best = Isa::detect();
        Isa::ALL.into_iter().filter(move |&isa| isa <= best)
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
            None => Err(format!("SUPPLE_ISA={name} is not one of scalar, avx2, avx512, amx")),
        }
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

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_levels_are_ordered() {
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(isa.name()), Some(isa));
        }
        assert!(Isa::Scalar < Isa::Avx2 && Isa::Avx512 < Isa::Amx);
        assert!(Isa::available().any(|isa| isa == Isa::Scalar));
    }
}
