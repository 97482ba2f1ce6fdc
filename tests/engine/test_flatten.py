"""The graph without Nipype's copies is the one that Workflow.run hands to a plugin."""

from nipype import Function, IdentityInterface, JoinNode, MapNode, Node, Workflow

from neuroferry.engine.flatten import flatten


class KeepPlugin:
    plugin_args = None

    def run(self, graph, config, updatehash=False):
        self.graph = graph
        self.config = config


def add(x, y=1):
    return x + y


def total(values):
    return sum(values)


def first(values):
    return values[0]


def build(folder):
    """Nested workflows, iterables, a join, a MapNode, a function in a connection, own settings."""
    source = Node(IdentityInterface(["x"]), name="source")
    source.iterables = [("x", [1, 2, 3])]
    one = Node(Function(["x", "y"], ["out"], add), name="one", mem_gb=2.0, n_procs=3)
    each = MapNode(Function(["x", "y"], ["out"], add), name="each", iterfield=["x"])
    each.inputs.x = [1, 2]
    own = Node(Function(["x"], ["out"], add), name="own")
    own.config = {"execution": {"keep_inputs": "true"}}
    inner = Workflow("inner")
    inner.connect([(one, each, [("out", "y")]), (each, own, [(("out", first), "x")])])
    join = JoinNode(
        Function(["values"], ["out"], total), joinsource=source, joinfield="values", name="join"
    )
    workflow = Workflow("w", base_dir=str(folder))
    workflow.config = {"execution": {"hash_method": "content"}}
    workflow.connect([(source, inner, [("x", "one.x")]), (inner, join, [("own.out", "values")])])
    return workflow


def describe(graph):
    """Describe everything that determines what a step does and where."""
    return sorted(
        (
            node.fullname,
            str(node.parameterization),
            node.output_dir(),
            str(node.inputs),
            sorted(node.input_source.items()),
            sorted(before.output_dir() for before in graph.predecessors(node)),
            (node.mem_gb, node.n_procs, sorted(node.needed_outputs)),
            {name: dict(values) for name, values in node.config.items()}["execution"],
        )
        for node in graph.nodes()
    )


def test_the_same_graph_as_nipype_hands_over(tmp_path):
    keep = KeepPlugin()
    build(tmp_path).run(plugin=keep)
    graph = flatten(build(tmp_path))
    assert len(graph) == 10
    assert describe(graph) == describe(keep.graph)


def test_a_workflow_of_its_own_settings_is_flattened_with_them(tmp_path):
    workflow = build(tmp_path)
    flatten(workflow)
    keep = KeepPlugin()
    build(tmp_path).run(plugin=keep)
    assert workflow.config == keep.config
