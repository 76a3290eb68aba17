"""What Label Studio sends: messages in the form of those that version 1.23.2 sent to a server, with texts of our own."""

import json

MADE = "2026-11-02T08:50:02.117000Z"


def taxonomy(*paths, control="label"):
    return [
        {"from_name": control, "to_name": "text", "type": "taxonomy", "value": {"taxonomy": list(map(list, paths))}}
    ]


def choices(*names, control="label"):
    return [{"from_name": control, "to_name": "text", "type": "choices", "value": {"choices": list(names)}}]


def task(number, text, predictions=(), field="text", **data):
    """A task as /predict gets it; /webhook gets one without annotations and predictions."""
    return {
        "id": number, "annotations": [], "predictions": list(predictions), "data": {field: text, **data}, "meta": {},
        "created_at": "2026-11-02T08:52:11.690000Z", "updated_at": "2026-11-02T08:52:11.690000Z", "is_labeled": False,
        "overlap": 1, "inner_id": number, "total_annotations": 0, "cancelled_annotations": 0, "total_predictions": 0,
        "comment_count": 0, "unresolved_comment_count": 0, "last_comment_updated_at": None, "project": 3,
        "updated_by": None, "file_upload": None, "comment_authors": [],
    }  # fmt: skip


def predict(config, *tasks, context=None):
    params = {"login": None, "password": None, "context": context}
    return {"tasks": list(tasks), "project": "3.1793609531", "label_config": config, "params": params}


def setup(config):
    return {
        "project": "3.1793609531", "schema": config, "hostname": "http://localhost:8080", "extra_params": None,
        "access_token": "0123456789abcdef0123456789abcdef01234567",
    }  # fmt: skip


def annotation(number, result, who=7, **more):
    return {
        "id": number, "result": result, "completed_by": who, "was_cancelled": False, "ground_truth": False,
        "lead_time": 3.2, "draft_created_at": None, "task": 41, "project": 3, "updated_by": who, "parent_prediction": None,
        "parent_annotation": None, "last_action": None, "import_id": None, "last_created_by": None, "unique_id": "9f1c",
        "bulk_created": False, "created_at": "2026-11-02T08:52:58Z", "updated_at": "2026-11-02T08:52:58Z",
    } | more  # fmt: skip


def webhook(action, config, **more):
    project = {
        "id": 3,
        "title": "news",
        "label_config": config,
        "created_at": MADE,
        "created_by": 7,
        "organization": 1,
    }
    return json.loads(json.dumps({"action": action, "project": project, **more}))
