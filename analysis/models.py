"""The models that word_interpret.py and sent_interpret.py explain: of train.py, prune.py and few-shot/train.py."""

from dataclasses import replace

from hierarchical.checkpoints import Checkpoint, kind_in
from hierarchical.modeling import classify_features, encode_features
from hierarchical.template import TemplateTokenizer, load_template


def open_checkpoint(directory, max_seq_length=None):
    """The Checkpoint of either kind; its tokenizer puts texts into their template where there is one.

    Of a model that reads texts in windows the first one is read. Raises InputError like `Checkpoint.open`.
    """
    if kind_in(directory) != "few-shot":
        return Checkpoint.open(directory, max_seq_length, windows=False)
    checkpoint = Checkpoint.open(directory, max_seq_length, kind="few-shot")
    return replace(checkpoint, tokenizer=load_template(checkpoint.directory, checkpoint.tokenizer, checkpoint.config))


def load_model(checkpoint):
    """Its network, in eval mode."""
    if not isinstance(checkpoint.tokenizer, TemplateTokenizer):
        return checkpoint.load_model()
    from hierarchical.few_shot import load_network

    return load_network(checkpoint, checkpoint.tokenizer)


def text_features(model, tokenizer, texts, batch_size, name):
    """What the last layer sees of texts, float32 [N, hidden size]; `name` is for the progress bar."""
    if not isinstance(tokenizer, TemplateTokenizer):
        return encode_features(model, tokenizer, texts, batch_size, name)
    from hierarchical.few_shot import text_vectors

    return text_vectors(model, tokenizer.encode(texts), tokenizer.pad_id, batch_size) - model.center.numpy()


def feature_logits(model, tokenizer, features):
    """Logits float32 [N, L] of the features, without another run of the encoder."""
    if not isinstance(tokenizer, TemplateTokenizer):
        return classify_features(model, features)
    import paddle

    with paddle.no_grad():
        return model.score(paddle.to_tensor(features) + model.center).numpy()
