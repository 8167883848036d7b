"""A stand-in for the schema of nodes, version 3, as far as this pack has them."""

from types import SimpleNamespace


class _Input:
    def __init__(self, name, **options):
        self.id, self.optional = name, False
        vars(self).update(options)


class _Output:
    def __init__(self, display_name=None, tooltip=None):
        self.display_name = display_name


class Schema:
    def __init__(self, node_id, display_name, category, description, inputs, outputs):
        self.node_id, self.display_name, self.category = node_id, display_name, category
        self.description, self.inputs, self.outputs = description, inputs, outputs


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls):  # noqa: N802 - its name there
        return cls.define_schema()


class NodeOutput:
    def __init__(self, *args):
        self.args = args


class ComfyExtension:
    pass


io = SimpleNamespace(
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
    Schema=Schema,
    **{
        name: SimpleNamespace(Input=type(f"{name}Input", (_Input,), {}), Output=_Output)
        for name in ("Model", "Float", "Int", "String", "Combo", "Boolean", "Conditioning")
    },
)
