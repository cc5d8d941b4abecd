"""Advice for keys of other trainers (TRL, axolotl, LLaMA-Factory, transformers): what to write here instead."""

from __future__ import annotations

_ADAPTERS = "write student: {adapter: {kind: lora, rank: 16, alpha: 32, dropout: 0.0, targets: all-linear}}"
_NO_DORA = "adapters are plain LoRA: student.adapter has rank, alpha, dropout and targets"
_QUANTISED = "write student.quantization (with student.adapter) or teacher.quantization: int8 or nf4"
_LOGGING = "nothing is sent anywhere: every step is logged in OUTPUT/metrics.jsonl, the run in OUTPUT/run.json"
_UPLOAD = "nothing is uploaded; afterwards: hf upload ORGANISATION/MODEL OUTPUT/student"
_EPOCHS = "write training.steps = epochs × training rows / training.batch_size"
_PRECISION = (
    "write training.precision: bfloat16 (autocast over float32 weights); the weights' own type is student.dtype"
)
_ON_POLICY = "write method: on_policy or gkd; its share of own answers: answers: {from: student, fraction: 0.75}"
_DIVERGENCE = "write a term: terms: [{kind: token_divergence, divergence: forward_kl, reverse_kl or jensen_shannon, …}]"
_TEMPERATURE = (
    "for a loss: terms: [{kind: token_divergence, temperature: 2}]; for sampled teacher answers: "
    "teacher_answers.temperature"
)
_WEIGHT = (
    "every term has its weight: terms: [{kind: cross_entropy, weight: 0.5}, {kind: token_divergence, weight: 0.5}]"
)
_LENGTH = "write data.max_tokens, of prompt and answer together"
_ANSWER_LENGTH = "write teacher_answers.max_new_tokens (seqkd) or evaluation.max_new_tokens (evaluation)"
_MICROBATCH = "write training.batch_size, over all processes, and training.microbatch_size, a forward pass a process"
_SCHEDULE = "write training.schedule: linear, cosine or constant"
_OPTIMIZER = "the optimizer is AdamW: training.weight_decay, training.adam_beta2, training.max_grad_norm"
_ATTENTION = "transformers chooses the attention implementation that suits the model and the device"
_PARALLEL = (
    "start it by torchrun --nproc_per_node N -m distillab.cli.main train …; large models: student.parallel and "
    "teacher.parallel: {fsdp: N}; training.deepspeed: 2 or 3"
)
_RESUME = "the same command resumes from the last checkpoint"
_HELD_OUT = "write data.held_out: {path: …}, or {fraction: 0.1}"
_EVALUATE = "write training.evaluate_every, in steps"
_SAVE = "write training.checkpoint_every, in steps; the last checkpoint is removed when the run is finished"
_ROWS = "write data.train: {path: …, columns: {prompt: …, answer: …}}"
_PROMPTS = "prompts are never trained on, answers are"
_STUDENT = "write student: {path: …}"
_TEACHER = "write teacher: {path: …}"
_TOKENIZER = "write student.tokenizer or teacher.tokenizer, if it is not in the model's folder"
_VOCABULARY = (
    "a model and its tokenizer are taken as they are: add tokens and resize before, save both, use that folder"
)
_DEVICE = "write training.device: auto or cpu, and teacher.device: auto, cpu, cuda:1, …"
_NONE = "distillab has no such setting"
_BUDGET = "a run ends after training.steps, so that all methods have one budget; the curve is in OUTPUT/metrics.jsonl"
_SERVED = "a teacher runs in this process, or is cached first: distillab cache build, then teacher: {cache: …}"

_BY_ADVICE = {
    _ADAPTERS: (
        "lora peft use_peft peft_config lora_config lora_r lora_rank lora_alpha lora_dropout lora_target "
        "lora_target_modules lora_target_linear target_modules finetuning_type adapter qlora"
    ),
    _NO_DORA: "use_dora use_rslora freeze_trainable_layers unfrozen_parameters",
    _QUANTISED: (
        "load_in_4bit load_in_8bit quantization quantization_bit quantization_config bnb_config bnb_4bit_quant_type "
        "gptq awq"
    ),
    _LOGGING: (
        "report_to wandb wandb_project wandb_entity wandb_name use_wandb tensorboard mlflow logging_dir logging_steps "
        "logging_strategy log_level use_swanlab plot_loss"
    ),
    _UPLOAD: "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo hub_repo",
    _EPOCHS: "num_epochs num_train_epochs epochs n_epochs",
    "write training.steps": "max_steps num_steps train_steps iterations num_iterations",
    "write training.learning_rate": "lr base_lr learning_rate_student",
    _PRECISION: "bf16 fp16 tf32 mixed_precision pure_bf16 amp half",
    "write student.dtype and teacher.dtype": "torch_dtype model_dtype compute_dtype",
    _ON_POLICY: "on_policy on_policy_fraction lmbda student_data_fraction gkd rollout",
    _DIVERGENCE: "beta divergence kl kd_loss kd_loss_type loss loss_type loss_fn jsd_beta",
    _WEIGHT: "alpha kd_alpha kd_ratio kd_ce_alpha ce_weight kl_weight distill_loss_weight",
    _TEMPERATURE: "temperature kd_temperature distillation_temperature tau",
    "write method: seqkd": "seq_kd seqkd sequence_level_kd",
    _LENGTH: (
        "max_length max_seq_length max_seq_len sequence_len seq_length cutoff_len block_size max_prompt_length "
        "model_max_length truncation context_length"
    ),
    _ANSWER_LENGTH: "max_new_tokens max_completion_length max_gen_length generation_max_length",
    _MICROBATCH: (
        "per_device_train_batch_size train_batch_size micro_batch_size micro_batch batch bsz "
        "gradient_accumulation_steps grad_accum accumulate_grad_batches"
    ),
    "write evaluation.batch_size": "per_device_eval_batch_size eval_batch_size",
    "write training.warmup_steps": "warmup_ratio warmup num_warmup_steps",
    _SCHEDULE: "lr_scheduler lr_scheduler_type scheduler lr_scheduler_kwargs cosine_min_lr_ratio",
    _OPTIMIZER: "optim optimizer optim_args adam_beta1 adam_epsilon betas optim_target_modules",
    "write training.max_grad_norm": "gradient_clipping clip_grad max_norm",
    _ATTENTION: (
        "flash_attention flash_attn flash_attention_2 use_flash_attention_2 attn_implementation xformers_attention "
        "sdp_attention sdpa_attention"
    ),
    "write training.gradient_checkpointing: true": "gradient_checkpointing_kwargs activation_checkpointing",
    _PARALLEL: (
        "deepspeed fsdp fsdp_config fsdp_version tensor_parallel tensor_parallel_size num_gpus local_rank "
        "ddp_find_unused_parameters ddp_timeout accelerate nproc world_size num_processes"
    ),
    _RESUME: "resume_from_checkpoint auto_resume_from_checkpoints resume overwrite_output_dir",
    _HELD_OUT: "val_set_size test_size eval_split validation eval_dataset test_datasets val valid",
    _EVALUATE: "eval_steps eval_strategy evaluation_strategy evals_per_epoch eval_on_start",
    _SAVE: "save_steps save_strategy save_total_limit saves_per_epoch save_only_model",
    "write output": "output_dir out_dir save_dir save_path output_path logdir",
    _ROWS: (
        "dataset datasets dataset_name dataset_path dataset_dir train_file train_data files dataset_text_field "
        "dataset_config train_dataset data_path field_messages ds_type"
    ),
    "write data.train.limit": "max_samples max_train_samples num_samples",
    _PROMPTS: "train_on_inputs train_on_prompt completion_only_loss assistant_only_loss mask_history",
    "write data.template": "chat_template prompt_template conversation_template system_prompt",
    _STUDENT: (
        "model model_name model_name_or_path base_model base_model_config student_model student_model_name_or_path "
        "student_name_or_path model_path model_id pretrained"
    ),
    _TEACHER: (
        "teacher_model teacher_model_name_or_path teacher_model_init_kwargs teacher_name_or_path teacher_path "
        "teacher_model_adapters ref_model kd_teacher"
    ),
    _TOKENIZER: "tokenizer_name tokenizer_path tokenizer_type tokenizer_config use_fast_tokenizer",
    _VOCABULARY: "special_tokens added_tokens tokens resize_vocab resize_token_embeddings pad_token",
    _DEVICE: "use_cpu no_cuda cuda gpu gpus device_id",
    "code of a model's folder is never run; use a model whose model_type transformers supports": "trust_remote_code",
    "write distillab train RECIPE, or distillab compare RECIPE": "stage do_train do_eval do_predict rl",
    "write training.packing: true": "sample_packing pad_to_sequence_len neat_packing eval_sample_packing",
    "write training.padding_side": "padding pad_side",
    _NONE: (
        "neftune_noise_alpha label_smoothing label_smoothing_factor dataloader_num_workers num_proc "
        "preprocessing_num_workers dataset_num_proc torch_compile use_liger_kernel unsloth dpo remove_unused_columns "
        "dataloader_pin_memory plugins strict ddp_backend"
    ),
    _BUDGET: "early_stopping early_stopping_patience load_best_model_at_end metric_for_best_model",
    _SERVED: "use_vllm vllm vllm_mode vllm_server_host teacher_server teacher_url api_base base_url",
    "write name": "run_name experiment_name project_name",
    "write seed, or data.seed for the held-out fraction": "random_seed data_seed set_seed",
}
_ADVICE = {key: advice for advice, keys in _BY_ADVICE.items() for key in keys.split()}


def advice_for(key: str) -> str | None:
    """Return what to write instead of a key of another trainer; None for an unknown key.

    >>> advice_for("lr")
    'write training.learning_rate'
    """
    return _ADVICE.get(key.lower().replace("-", "_"))
