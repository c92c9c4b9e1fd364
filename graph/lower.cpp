#include "graph/lower.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "graph/check_fused.h"
#include "graph/ops.h"
#include "graph/plan_buffers.h"
#include "graph/rewrite.h"
#include "jit/attention_generator.h"
#include "jit/error.h"
#include "jit/gemm.h"

namespace nibble::graph {
namespace {

using runtime::Operand;
using runtime::QuantizedOperand;
using runtime::Step;

constexpr int64_t kUnknownContext = 2048;

// How a value must be quantized for a matmul.
struct QuantizeKey {
  ValueId value = kNoValue;
  jit::ActType act = jit::ActType::s8;  // or bf16, which has no groups
  jit::ActivationGroups groups{};
  auto operator<=>(const QuantizeKey&) const = default;
};

using Floats = std::shared_ptr<const std::vector<float>>;

// The constant vector behind an operand; null when it is absent. check_fused has seen its length.
Floats floats_of(const Graph& graph, const Node& node, size_t operand) {
  const ValueId id = node.input(operand);
  if (id == kNoValue) return nullptr;
  return std::make_shared<const std::vector<float>>(to_f32(*graph.tensor(id)));
}

jit::Activation fused_activation_of(const Node& node) {
  const std::string name = node.get_string("activation", "none");
  const auto activation = jit::parse_activation(name);
  if (!activation) fail("Node '{}' has activation '{}', which is not known.", node.name, name);
  return *activation;
}

class Lowering {
 public:
  Lowering(const Graph& graph, const LowerOptions& options)
      : graph_(graph), options_(options), plan_(std::make_shared<runtime::Plan>()), links_(graph) {
    for (const Node& node : graph.nodes) {
      if (node.domain != kNibbleDomain) fail_unfused(node);
    }
    check_fused(graph);
    widths_ = hidden_widths(graph);
  }

  std::shared_ptr<const runtime::Plan> run() {
    plan_->isa = options_.isa;
    plan_->context_length = graph_.context_length > 0 ? graph_.context_length : kUnknownContext;
    for (const Node& node : graph_.nodes) lower_node(node);
    if (plan_->vocab_size == 0) fail("{}: no Linear makes the logits.", graph_.origin);
    finish();
    return plan_;
  }

 private:
  void lower_node(const Node& node) {
    if (node.op == "Embedding") return lower_embedding(node);
    if (node.op == "RMSNorm" || node.op == "LayerNorm") return lower_norm(node);
    if (node.op == "Linear") return lower_linear(node);
    if (node.op == "Attention") return lower_attention(node);
    if (node.op == "LogitScale") return lower_logit_scale(node);
    if (node.op == "HeadNorm") return lower_head_norm(node);
    if (node.op == "Clip") return lower_clip(node);
    if (node.op == "Activation" || node.op == "Gate" || node.op == "Add") return lower_row(node);
    fail_unfused(node);
  }

  [[noreturn]] void fail_unfused(const Node& node) const {
    fail("{}: node '{}' ({}) is no fused operator and cannot be compiled.", graph_.origin,
         node.name, node.op);
  }

  // The weight of an Embedding or Linear: its second operand.
  const runtime::PackedMatrix& packed(const Node& node) const {
    const ValueId id = node.inputs[1];
    const auto& constant = graph_.values[static_cast<size_t>(id)].constant;
    const auto* matrix = constant ? std::get_if<runtime::PackedMatrix>(&*constant) : nullptr;
    if (matrix == nullptr) {
      fail("{}: the weight '{}' of node '{}' is not packed.", graph_.origin, graph_.value_name(id),
           node.name);
    }
    return *matrix;
  }

  int64_t width_of(ValueId id) const { return widths_[static_cast<size_t>(id)]; }

  Operand operand(ValueId id) {
    const auto known = operands_.find(id);
    if (known == operands_.end()) {
      fail("{}: value '{}' is used before it is computed.", graph_.origin, graph_.value_name(id));
    }
    return known->second;
  }

  // Whether `id` becomes the logits where it lies: it is scaled in place.
  bool becomes_logits(ValueId id) const {
    if (id == graph_.io.logits) return true;
    const Node* maker = links_.producer(graph_.io.logits);
    return maker != nullptr && maker->is("LogitScale", kNibbleDomain) && maker->inputs[0] == id &&
           links_.single_use(id);
  }

  Operand make_operand(ValueId id) {
    if (becomes_logits(id)) return operands_[id] = Operand{Operand::kLogits, width_of(id)};
    return operands_[id] = buffers_.floats(width_of(id));
  }

  const jit::Kernel* kernel(const jit::KernelSpec& spec, const jit::Tiling& tiling = {}) {
    return &jit::CodeCache::instance().get({spec, options_.isa, tiling});
  }

  void add(Step step, const Node& node, std::string label) {
    step.label = std::move(label);
    step.layer = layer_of_name(node.name);
    plan_->steps.push_back(std::move(step));
  }

  void lower_embedding(const Node& node) {
    runtime::EmbedStep step;
    step.table = packed(node);
    step.scale = node.get_float("scale", 1);
    if (node.input(2) != kNoValue) {
      step.position_offset = node.get_int("position_offset", 0);
      step.positions = floats_of(graph_, node, 2);
      const int64_t rows = graph_.tensor(node.inputs[2])->shape[0];
      plan_->context_length = std::min(plan_->context_length, rows - step.position_offset);
    }
    step.out = make_operand(node.outputs[0]);
    vocabulary_ = step.table.view.n;
    count_weight(node.inputs[1]);
    add(Step::of(std::move(step)), node, "embedding");
  }

  // The one quantization that every user of `id` wants, when all users are int8 or bf16 matmuls.
  std::optional<QuantizeKey> common_quantization(ValueId id) const {
    std::optional<QuantizeKey> common;
    for (int32_t user : links_.consumers(id)) {
      const Node& node = graph_.nodes[static_cast<size_t>(user)];
      if (!node.is("Linear", kNibbleDomain) || node.input(3) == id) return std::nullopt;
      const auto key = quantize_key(node);
      if (!key || (common && *common != *key)) return std::nullopt;
      common = key;
    }
    return common;
  }

  std::optional<QuantizeKey> quantize_key(const Node& linear) const {
    const jit::WeightFormat& format = packed(linear).view.format;
    const jit::ActType act = activations_of(options_.compute, format);
    if (act == jit::ActType::f32) return std::nullopt;
    if (act == jit::ActType::bf16) return QuantizeKey{linear.inputs[0], act};
    return QuantizeKey{linear.inputs[0], act, jit::activation_groups(format)};
  }

  // Room for what a kernel quantizes so, which it is told.
  QuantizedOperand make_quantized(const QuantizeKey& key, jit::RowSpec& spec) {
    QuantizedOperand operand;
    operand.element_bytes = jit::act_bytes(key.act);
    operand.q = buffers_.bytes((spec.n + 7) / 8 * 8 * operand.element_bytes);
    spec.bf16 = key.act == jit::ActType::bf16;
    if (!spec.bf16) {
      jit::set_groups(spec, key.groups);
      operand.scale = buffers_.words(jit::row_scales(spec));
      operand.sum = buffers_.words(jit::row_sum_words(spec));
    }
    quantized_[key] = operand;
    return operand;
  }

  // Emits a quantization step unless the row was already quantized so.
  QuantizedOperand quantized(const Node& node, const QuantizeKey& key) {
    const auto known = quantized_.find(key);
    if (known != quantized_.end()) return known->second;
    jit::RowSpec spec;
    spec.op = jit::RowOp::quantize;
    spec.n = width_of(key.value);
    runtime::RowStep step;
    step.x = operand(key.value);
    step.quantized = make_quantized(key, spec);
    step.kernel = kernel(spec);
    const QuantizedOperand result = step.quantized;
    add(Step::of(std::move(step)), node, jit::name(spec));
    return result;
  }

  void lower_norm(const Node& node) {
    const bool layer_norm = node.op == "LayerNorm";
    if (node.input(layer_norm ? 3 : 2) != kNoValue) {
      fail("{}: node '{}' adds a residual, which belongs to the Linear before it.", graph_.origin,
           node.name);
    }
    jit::RowSpec spec;
    spec.op = layer_norm ? jit::RowOp::layer_norm : jit::RowOp::rms_norm;
    spec.n = width_of(node.inputs[0]);
    runtime::RowStep step;
    step.x = operand(node.inputs[0]);
    step.weight = floats_of(graph_, node, 1);
    step.bias = layer_norm ? floats_of(graph_, node, 2) : nullptr;
    step.eps = node.get_float("epsilon");
    spec.bias = step.bias != nullptr;
    if (const auto key = common_quantization(node.outputs[0])) {
      spec.quantize = true;
      spec.f32_out = false;
      step.quantized = make_quantized(*key, spec);
    } else {
      step.y = make_operand(node.outputs[0]);
    }
    step.kernel = kernel(spec);
    add(Step::of(std::move(step)), node, jit::name(spec));
  }

  void lower_logit_scale(const Node& node) {
    const float scale = node.get_float("scale", 1), cap = node.get_float("softcap", 0);
    jit::RowSpec spec;
    spec.op = cap == 0 ? jit::RowOp::scale : jit::RowOp::softcap;
    runtime::RowStep step;
    step.kernel = kernel(spec);
    step.x = operand(node.inputs[0]);
    step.y = make_operand(node.outputs[0]);
    step.scale = cap == 0 ? scale : scale / cap;
    step.cap = cap;
    step.columns = width_of(node.inputs[0]);
    add(Step::of(std::move(step)), node, jit::name(spec));
  }

  void lower_clip(const Node& node) {
    jit::RowSpec spec;
    spec.op = jit::RowOp::clip;
    runtime::RowStep step;
    step.kernel = kernel(spec);
    step.x = operand(node.inputs[0]);
    step.y = make_operand(node.outputs[0]);
    step.cap = node.get_float("limit");
    step.columns = width_of(node.inputs[0]);
    add(Step::of(std::move(step)), node, jit::name(spec));
  }

  void lower_head_norm(const Node& node) {
    runtime::HeadNormStep step;
    step.head = head_layout(node);
    step.qkv = operands_[node.outputs[0]] = operand(node.inputs[0]);
    step.whole = node.get_int("whole", 0) != 0;
    step.weight = floats_of(graph_, node, 1);
    step.bias = floats_of(graph_, node, 2);
    step.eps = node.get_float("epsilon");
    jit::RowSpec spec;
    spec.op = node.get_int("centre", 0) != 0 ? jit::RowOp::layer_norm : jit::RowOp::rms_norm;
    spec.bias = step.bias != nullptr;
    if (spec.bias && spec.op == jit::RowOp::rms_norm) {
      fail("{}: node '{}' has a bias, which RMSNorm has not.", graph_.origin, node.name);
    }
    spec.n = step.head.head_dim * (step.whole ? step.head.heads : 1);
    step.q = kernel(spec);
    const std::string label = jit::name(spec);
    spec.n = step.head.head_dim * (step.whole ? step.head.kv_heads : 1);
    step.k = kernel(spec);
    add(Step::of(std::move(step)), node, label);
  }

  void lower_row(const Node& node) {
    jit::RowSpec spec;
    spec.op = node.op == "Activation" ? jit::RowOp::activation
              : node.op == "Gate"     ? jit::RowOp::gate
                                      : jit::RowOp::add;
    spec.n = width_of(node.inputs[0]);
    if (node.op != "Add") spec.activation = fused_activation_of(node);
    runtime::RowStep step;
    step.kernel = kernel(spec);
    step.x = operand(node.inputs[0]);
    if (spec.op != jit::RowOp::activation) step.x2 = operand(node.inputs[1]);
    step.y = make_operand(node.outputs[0]);
    add(Step::of(std::move(step)), node, jit::name(spec));
  }

  void lower_linear(const Node& node) {
    runtime::GemmStep step;
    step.weight = packed(node);
    const jit::PackedView& w = step.weight.view;
    jit::GemmSpec spec;
    spec.weight = w.format;
    spec.n = w.n;
    spec.k = w.k;
    spec.activation = fused_activation_of(node);
    spec.gate = step.gate = node.get_int("gate", 0) != 0;
    step.bias = floats_of(graph_, node, 2);
    spec.bias = step.bias != nullptr;
    const auto key = quantize_key(node);
    spec.act = key ? key->act : jit::ActType::f32;
    if (key) {
      step.quantized = quantized(node, *key);
    } else {
      step.a = operand(node.inputs[0]);
    }
    if (node.input(3) != kNoValue) step.residual = operand(node.inputs[3]);
    spec.residual = step.residual.present();
    step.out = make_operand(node.outputs[0]);
    step.out_columns = width_of(node.outputs[0]);
    if (step.out.place == Operand::kLogits) plan_->vocab_size = step.out_columns;
    std::ranges::transform(runtime::kRowBuckets, step.kernels.begin(),
                           [&](int64_t rows) { return gemm_kernel(spec, rows); });
    const std::string label = jit::name(step.kernel(1).key);
    const int64_t bytes = runtime::stored_bytes(w), macs = w.n * w.k;
    Step wrapped = Step::of(std::move(step));
    wrapped.weight_bytes = bytes;
    wrapped.macs = macs;
    plan_->weight_bytes_per_token += bytes;
    plan_->macs_per_token += macs;
    count_weight(node.inputs[1]);
    add(std::move(wrapped), node, label);
  }

  jit::Tiling choose_tiling(const jit::GemmSpec& spec, int64_t rows) {
    if (options_.tunings != nullptr) {
      if (const auto t = options_.tunings->tiling(spec, options_.isa, rows, options_.threads)) {
        ++plan_->tuned;
        return *t;
      }
    }
    return jit::default_tiling(spec, options_.isa, rows);
  }

  const jit::Kernel* gemm_kernel(const jit::GemmSpec& spec, int64_t rows) {
    const jit::Tiling tiling = choose_tiling(spec, rows);
    need_scratch(jit::gemm_scratch_bytes(spec, tiling));
    return kernel(spec, tiling);
  }

  void need_scratch(int64_t bytes) { plan_->scratch_bytes = std::max(plan_->scratch_bytes, bytes); }

  // Resident bytes; a matrix that two nodes share counts once.
  void count_weight(ValueId id) {
    if (std::find(counted_.begin(), counted_.end(), id) != counted_.end()) return;
    counted_.push_back(id);
    const auto& constant = *graph_.values[static_cast<size_t>(id)].constant;
    plan_->weight_bytes += runtime::stored_bytes(std::get<runtime::PackedMatrix>(constant).view);
  }

  int rope_table(const Node& node) {
    runtime::RopeTable table{*floats_of(graph_, node, 1), node.get_float("rope_scale", 1)};
    auto& tables = plan_->rope_tables;
    const auto known = std::find(tables.begin(), tables.end(), table);
    if (known != tables.end()) return static_cast<int>(known - tables.begin());
    tables.push_back(std::move(table));
    return static_cast<int>(tables.size()) - 1;
  }

  // Of the next attention.
  runtime::HeadLayout head_layout(const Node& node) const {
    return {static_cast<int64_t>(plan_->layers.size()), node.get_int("heads"),
            node.get_int("kv_heads"), node.get_int("head_dim")};
  }

  void lower_attention(const Node& node) {
    const runtime::HeadLayout head = head_layout(node);
    plan_->layers.push_back(head);
    add(Step::of(cache_step(node, head)), node, "kv-append");

    runtime::AttentionStep step;
    step.head = head;
    step.qkv = operand(node.inputs[0]);
    step.out = make_operand(node.outputs[0]);
    step.window = node.get_int("window", 0);
    step.scale = node.get_float("scale");
    step.softcap = node.get_float("softcap", 0);
    step.slopes = floats_of(graph_, node, 2);
    step.spec.head_dim = head.head_dim;
    step.spec.alibi = step.slopes != nullptr;
    step.spec.softcap = step.softcap != 0;
    jit::check_attention_spec(step.spec);
    std::string label = fmt::format("attention_d{}", head.head_dim);
    if (step.spec.alibi) label += "_alibi";
    if (step.spec.softcap) label += "_softcap";
    last_attention_ = plan_->steps.size();
    add(Step::of(std::move(step)), node, std::move(label));
  }

  runtime::CacheStep cache_step(const Node& node, const runtime::HeadLayout& head) {
    runtime::CacheStep step;
    step.head = head;
    step.qkv = operand(node.inputs[0]);
    if (node.get_int("rotary", 0) > 0) {
      jit::RowSpec rope;
      rope.op = jit::RowOp::rope;
      rope.n = head.head_dim;
      rope.rotary = node.get_int("rotary");
      rope.interleaved = node.get_int("interleaved", 0) != 0;
      step.rope = kernel(rope);
      step.rope_table = rope_table(node);
    }
    if (node.input(3) != kNoValue) {
      jit::RowSpec norm;
      norm.op = jit::RowOp::rms_norm;
      norm.n = head.head_dim;
      step.head_norm = kernel(norm);
      step.q_norm = floats_of(graph_, node, 3);
      step.k_norm = floats_of(graph_, node, 4);
      step.norm_eps = node.get_float("norm_epsilon");
      step.norm_last = node.get_int("norm_last", 0) != 0;
    }
    return step;
  }

  void finish() {
    for (size_t i = 0; i < plan_->steps.size(); ++i) plan_->steps[i].tail = i > last_attention_;
    plan_->row_bytes = buffers_.place(plan_->steps);
    if (vocabulary_ < plan_->vocab_size) {
      fail("{}: the embedding has {} rows but the logits {} columns.", graph_.origin, vocabulary_,
           plan_->vocab_size);
    }
    plan_->bf16 = options_.compute == Compute::bf16;
    plan_->notes.push_back(fmt::format("{} compute", compute_name(options_.compute)));
  }

  const Graph& graph_;
  LowerOptions options_;
  std::shared_ptr<runtime::Plan> plan_;
  Links links_;
  std::vector<int64_t> widths_;
  PlanBuffers buffers_;
  std::map<ValueId, Operand> operands_;
  std::map<QuantizeKey, QuantizedOperand> quantized_;
  std::vector<ValueId> counted_;
  size_t last_attention_ = 0;
  int64_t vocabulary_ = 0;
};

}  // namespace

std::shared_ptr<const runtime::Plan> lower(const Graph& graph, const LowerOptions& options) {
  return Lowering(graph, options).run();
}

}  // namespace nibble::graph
