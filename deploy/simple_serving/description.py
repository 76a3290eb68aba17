"""The limits of this server in its description (/openapi.json): what is valid by the description is not refused."""

from hierarchical.decisions import DECODINGS

MOST_LABELS = 1000  # are listed by name
MOST = 10  # where a request gives both, some number up to this is not below min_labels and not above max_labels


def add_limits(schemas, args, models):
    """Change the schemas of the requests, in place. args: the server's flags; models: the Models in use.

    Of labels and decisions the default's are told: what another model takes is found out by asking it.
    """
    model = models.find()
    text = {"type": "string", "maxLength": args.max_chars}
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": args.max_texts}
    for name, field in (("ClassifyBody", "texts"), ("ReferenceData", "text")):
        schemas[name]["properties"][field]["anyOf"] = [text, texts]
    explain = schemas["ExplainBody"]["properties"]
    explain["text"]["maxLength"] = args.max_chars
    for name in ("ClassifyBody", "ExplainBody"):
        number_or_list(schemas[name]["properties"]["model"])["enum"] = list(models.loaded)
    if len(model.tree) <= MOST_LABELS and len(models.loads) == 1:
        number_or_list(explain["labels"])["items"]["enum"] = model.tree.labels
    number_or_list(schemas["ReferenceParameters"]["properties"]["max_seq_len"])["maximum"] = model.most_tokens
    add_decision_limits(schemas["ClassifyBody"], model.decision)
    add_threshold_limits(schemas["ClassifyBody"], model.trained)
    if model.known is not None and len(models.loads) == 1:
        forbid_numbers(schemas["ClassifyBody"]["properties"])


def add_decision_limits(schema, stored):
    """Which numbers of labels go together, with each other and with the Decision stored with the model."""
    fields = schema["properties"]
    if stored.min_labels > 1:  # it holds where a request gives max_labels alone
        number_or_list(fields["max_labels"])["minimum"] = stored.min_labels
    if stored.max_labels is not None:
        number_or_list(fields["min_labels"])["maximum"] = stored.max_labels
    given = {name: {"properties": {name: {"type": "integer"}}, "required": [name]} for name in fields}
    given["min_labels"]["properties"]["min_labels"]["minimum"] = 1  # 0 asks for nothing
    schema["not"] = {"allOf": [given["top_k"], {"anyOf": [given["min_labels"], given["max_labels"]]}]}
    between = ({"min_labels": {"maximum": number}, "max_labels": {"minimum": number}} for number in range(1, MOST + 1))
    one_alone = ({name: {"type": "null"}} for name in ("min_labels", "max_labels"))
    fitting = [{"properties": properties} for properties in (*one_alone, *between)]
    # not "anyOf" by itself: of that, generators of clients make a type for each
    schema["not"] = {"anyOf": [schema["not"], {"not": {"anyOf": fitting}}]}


def add_threshold_limits(schema, tree):
    """How long a list of thresholds is."""
    number, several, *_ = number_or_list(schema["properties"]["threshold"])["oneOf"]
    lists = [several | {"minItems": n, "maxItems": n} for n in sorted({tree.depth, len(tree)})]
    number_or_list(schema["properties"]["threshold"])["oneOf"] = [number, *lists]


def forbid_numbers(fields):
    """What says how many labels a text has, which new labels come on top of."""
    number_or_list(fields["decoding"])["enum"] = [name for name in DECODINGS if name != "path"]
    number_or_list(fields["per_level"])["maximum"] = 0
    for name in ("top_k", "max_labels"):
        fields[name]["anyOf"] = [{"type": "null"}]


def number_or_list(field):
    """The part of an optional field's schema that is not for null."""
    return next(part for part in field["anyOf"] if part.get("type") != "null")
