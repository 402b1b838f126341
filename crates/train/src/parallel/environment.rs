//! Which process this is, from what launchers set in the environment.

use crate::Error;

/// Which process this is of how many, and where process 0 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process among those of this machine: the GPU that it takes.
    pub local_rank: usize,
    /// Host of process 0.
    pub host: String,
    /// Port that process 0 listens on.
    pub port: u16,
}

/// Rank, size and local rank as launchers call them: `supple launch` and torchrun, Open MPI, SLURM.
const NAMES: [[&str; 3]; 3] = [
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
];

/// Where process 0 listens if nothing says otherwise.
const PORT: u16 = 29_500;

impl Place {
    /// The place that the environment gives; `None` if this process is alone.
    ///
    /// # Errors
    /// If the environment contradicts itself, or does not say where process 0 is.
    pub fn from_env() -> Result<Option<Place>, Error> {
        Place::from(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>, Error> {
        // SLURM sets its names for a single task too, and in shells that only hold an allocation: there without a step.
        let usable = |names: &&[&str; 3]| {
            let slurm = names[0].starts_with("SLURM");
            get(names[0]).is_some() && get(names[1]).is_some() && (!slurm || get("SLURM_STEP_ID").is_some())
        };
        let Some([rank_name, size_name, local_name]) = NAMES.iter().find(usable) else { return Ok(None) };
        let number = |name: &str| -> Result<Option<usize>, Error> {
            let parse = |text: String| {
                text.parse().map_err(|_| Error::Environment(format!("{name} is {text:?}, which is no number")))
            };
            get(name).map(parse).transpose()
        };
        let (rank, size) = (number(rank_name)?.unwrap_or(0), number(size_name)?.unwrap_or(1));
        if size == 1 && rank == 0 {
            return Ok(None);
        }
        if rank >= size {
            return Err(Error::Environment(format!("{rank_name} is {rank}, with {size_name} {size}")));
        }
        let local_rank = number(local_name)?.unwrap_or(rank);
        let host = match (get("MASTER_ADDR"), local_name.starts_with("SLURM")) {
            (Some(host), _) => host,
            (None, true) => first_host(&get("SLURM_STEP_NODELIST").or(get("SLURM_NODELIST")).unwrap_or_default())
                .ok_or_else(|| Error::Environment("MASTER_ADDR is not set".into()))?,
            (None, false) if local_rank == rank && size <= 64 && local_name == &"OMPI_COMM_WORLD_LOCAL_RANK" => {
                "127.0.0.1".into()
            }
            (None, false) => return Err(Error::Environment("MASTER_ADDR is not set".into())),
        };
        let port = match get("MASTER_PORT") {
            None => PORT,
            Some(text) => {
                text.parse().map_err(|_| Error::Environment(format!("MASTER_PORT is {text:?}, which is no port")))?
            }
        };
        Ok(Some(Place { rank, size, local_rank, host, port }))
    }
}

/// The first of SLURM's nodes: `gpu[03-05,9],other` begins with `gpu03`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find(['[', ',']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let host = match rest.strip_prefix('[') {
        Some(numbers) => format!("{name}{}", numbers.split(['-', ',', ']']).next()?),
        None => name.to_owned(),
    };
    Some(host).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pairs: &[(&str, &str)]) -> Result<Option<Place>, String> {
        let get = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        Place::from(&get).map_err(|error| error.to_string())
    }

    #[test]
    fn launchers_are_understood() {
        let of =
            |rank, local_rank, host: &str, port| Ok(Some(Place { rank, size: 4, local_rank, host: host.into(), port }));
        let own =
            [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "n0"), ("MASTER_PORT", "7")];
        assert_eq!(place(&own), of(3, 1, "n0", 7));
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("MASTER_ADDR", "n0"),
        ];
        assert_eq!(place(&mpi), of(2, 0, "n0", PORT));
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NODELIST", "gpu[03-05]"),
        ];
        assert_eq!(place(&slurm), of(1, 1, "gpu03", PORT));
        assert_eq!(place(&slurm[..3]), Ok(None), "a shell that holds an allocation");
        assert_eq!(place(&[]), Ok(None));
        assert_eq!(place(&[("RANK", "0"), ("WORLD_SIZE", "1")]), Ok(None));
    }

    #[test]
    fn contradictions_are_named() {
        for (pairs, wanted) in [
            (vec![("RANK", "4"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "a")], "RANK is 4"),
            (vec![("RANK", "x"), ("WORLD_SIZE", "4")], "RANK is \"x\""),
            (vec![("RANK", "1"), ("WORLD_SIZE", "4")], "MASTER_ADDR"),
            (vec![("RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")], "MASTER_PORT"),
        ] {
            let error = place(&pairs).unwrap_err();
            assert!(error.contains(wanted), "{error}, wanted {wanted}");
        }
    }

    #[test]
    fn lists_of_nodes_begin_with_a_node() {
        assert_eq!(first_host("a,b"), Some("a".into()));
        assert_eq!(first_host("gpu[7,9]"), Some("gpu7".into()));
        assert_eq!(first_host(""), None);
    }
}
