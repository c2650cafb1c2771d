//! `describe()`: a plan as text, JSON and Mermaid, for people and dashboards.

use std::fmt::{self, Write};

use ::serde::Serialize;

use crate::plan::{NodeKind, Plan, TopicRole};

/// A topology as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The nodes of all sub-topologies.
    pub nodes: Vec<DescribedNode>,
}

/// One node as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DescribedNode {
    /// The name.
    pub name: String,
    /// The operator.
    pub kind: String,
    /// The sub-topology.
    pub subtopology: u32,
    /// The names of the nodes that feed it.
    pub inputs: Vec<String>,
    /// The names of its stores.
    pub stores: Vec<String>,
    /// The topics that it reads or writes.
    pub topics: Vec<String>,
    /// True when the application itself makes these topics.
    pub internal: bool,
}

impl Plan {
    /// The plan as people see it.
    ///
    /// ```
    /// use millstream_topology::{Plan, TopicRole};
    /// let mut plan = Plan::default();
    /// let orders = plan.add_source(&["orders"], TopicRole::External);
    /// plan.add_sink(orders, "copies", TopicRole::External);
    /// assert!(plan.describe().to_string().contains("sink-1 (topics: copies) <- source-0"));
    /// ```
    pub fn describe(&self) -> Description {
        let nodes = self.subtopologies().into_iter().flat_map(|sub| {
            sub.nodes.into_iter().map(move |id| {
                let node = &self.nodes()[id.0];
                let text = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
                DescribedNode {
                    name: node.name.to_string(),
                    kind: node.kind.to_string(),
                    subtopology: sub.id,
                    inputs: text(
                        node.inputs
                            .iter()
                            .map(|i| &*self.nodes()[i.0].name)
                            .collect(),
                    ),
                    stores: text(
                        node.stores
                            .iter()
                            .map(|s| &*self.stores()[s.0].name)
                            .collect(),
                    ),
                    topics: text(node.topics.iter().map(|t| &**t).collect()),
                    internal: matches!(node.role, TopicRole::Repartition { .. }),
                }
            })
        });
        Description {
            nodes: nodes.collect(),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut current = None;
        for node in &self.nodes {
            if current != Some(node.subtopology) {
                current = Some(node.subtopology);
                writeln!(f, "sub-topology {}", node.subtopology)?;
            }
            write!(f, "  {}", node.name)?;
            for (what, names) in [("topics", &node.topics), ("stores", &node.stores)] {
                if !names.is_empty() {
                    write!(f, " ({what}: {})", names.join(", "))?;
                }
            }
            if !node.inputs.is_empty() {
                write!(f, " <- {}", node.inputs.join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Description {
    /// The description as a Mermaid flow chart.
    pub fn mermaid(&self) -> String {
        let mut chart = String::from("flowchart LR\n");
        // Writing to a string cannot fail.
        for node in &self.nodes {
            let id = mermaid_id(&node.name);
            let _ = writeln!(chart, "  {id}[\"{}\"]", node.name);
            for input in &node.inputs {
                let _ = writeln!(chart, "  {} --> {id}", mermaid_id(input));
            }
            for topic in &node.topics {
                let topic_id = format!("topic_{}", mermaid_id(topic));
                let _ = writeln!(chart, "  {topic_id}([\"{topic}\"])");
                let _ = match node.kind == NodeKind::Source.to_string() {
                    true => writeln!(chart, "  {topic_id} --> {id}"),
                    false => writeln!(chart, "  {id} --> {topic_id}"),
                };
            }
            for store in &node.stores {
                let store_id = format!("store_{}", mermaid_id(store));
                let _ = writeln!(chart, "  {store_id}[(\"{store}\")]\n  {id} --- {store_id}");
            }
        }
        chart
    }
}

fn mermaid_id(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}
