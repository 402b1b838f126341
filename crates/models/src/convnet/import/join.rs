//! Two networks one after another: the body of a classifier and its head, which some are published as.

use super::names::Names;
use crate::Error;
use crate::convnet::{ConvNet, Op, Quantization};

impl ConvNet {
    /// The network that computes `head` from what `body` computes. The labels are the head's, the preprocessing and the name the body's.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] if the body's output is not what the head takes: by shape, or, where both are quantised, by scale,
    /// zero point or type. Either may be inconsistent in itself as well.
    pub fn join(body: ConvNet, head: ConvNet) -> Result<ConvNet, Error> {
        let bad = |problem: String| {
            let network = format!("{} and {}", body.name, head.name);
            Error::BadNetwork { network, node: String::new(), problem }
        };
        let (body_shapes, head_shapes) = (body.shapes()?, head.shapes()?);
        let (given, wanted) = (body_shapes[body_shapes.len() - 1], head_shapes[0]);
        if given != wanted {
            return Err(bad(format!("the first gives {given} and the second takes {wanted}")));
        }
        let quantization = match (&body.quantization, &head.quantization) {
            (Some(first), Some(second)) => {
                first.check(&body)?;
                second.check(&head)?;
                match (first.nodes[body.nodes.len() - 1].output, second.nodes[0].output) {
                    (Some(given), Some(wanted)) if !given.agrees(&wanted) => {
                        return Err(bad(format!("the first gives {given:?} and the second takes {wanted:?}")));
                    }
                    _ => {}
                }
                Some(Quantization { nodes: first.nodes.iter().chain(&second.nodes[1..]).cloned().collect() })
            }
            // Half a description would be of no use to who computes in integers.
            _ => None,
        };

        let last = body.nodes.len() - 1;
        let mut names = Names::default();
        let ConvNet { name, mut nodes, preprocessing, .. } = body;
        for node in &mut nodes {
            node.name = names.unique(&node.name);
        }
        for mut node in head.nodes {
            if matches!(node.op, Op::Input(_)) {
                continue;
            }
            node.name = names.unique(&node.name);
            // The head's input, its node 0, is the body's last node.
            node.inputs.iter_mut().for_each(|input| *input += last);
            nodes.push(node);
        }
        Ok(ConvNet { name, nodes, preprocessing, labels: head.labels, quantization })
    }
}
