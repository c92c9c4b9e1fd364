#include "frontends/onnx/graph_builder.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "frontends/onnx/node_order.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

using graph::Attribute;
using graph::Graph;
using graph::TensorData;
using graph::ValueId;

constexpr std::string_view kDefaultDomain = "ai.onnx";  // another spelling of ""

std::string_view normal_domain(std::string_view domain) {
  return domain == kDefaultDomain ? std::string_view{} : domain;
}

class Builder {
 public:
  Builder(const ModelProto& model, const WireFile& file, TensorLoader& loader)
      : model_(model), file_(file), path_(file.path), loader_(loader) {}

  Graph build() {
    check_model();
    graph_.origin = path_;
    const GraphProto& proto = *model_.graph;
    // Counts are bounded by the size of the file: each of these took at least two bytes of it.
    graph_.values.reserve(proto.initializers.size() + proto.nodes.size() + proto.inputs.size());
    note_produced(proto);
    for (const TensorProto& tensor : proto.initializers) add_initializer(tensor);
    for (const ValueInfo& info : proto.inputs) add_input(info);
    add_nodes(proto.nodes);
    for (const ValueInfo& info : proto.value_infos) declare(info, "value");
    for (const ValueInfo& info : proto.outputs) add_output(info);
    drop_conditions();
    graph::verify(graph_);
    return std::move(graph_);
  }

 private:
  void check_model() {
    if (model_.ir_version < 3) {
      fail("{}: the ONNX IR version is {}, but 3 or later is expected: this is no ONNX model.",
           path_, model_.ir_version);
    }
    if (!model_.graph) fail("{}: this ONNX model has no graph.", path_);
    if (model_.has_functions) {
      fail(
          "{}: this model defines functions, which are not supported: export it with functions "
          "inlined.",
          path_);
    }
    if (model_.graph->has_sparse_initializer) {
      fail("{}: this model has sparse initializers, which are not supported.", path_);
    }
    for (const auto& [domain, version] : model_.opsets) {
      const auto [at, is_new] = opsets_.emplace(normal_domain(domain), version);
      if (!is_new && at->second != version) {
        fail("{}: the domain \"{}\" is imported twice, as version {} and {}.", path_, domain,
             at->second, version);
      }
    }
    const auto found = opsets_.find("");
    if (found == opsets_.end()) fail("{}: this model does not say its ONNX opset.", path_);
    graph_.opset = found->second;
    if (graph_.opset < kOldestOpset || graph_.opset > kNewestOpset) {
      fail("{}: the ONNX opset is {}, but {} to {} are supported.", path_, graph_.opset,
           kOldestOpset, kNewestOpset);
    }
  }

  // A new name in the graph.
  void bind(std::string_view name, ValueId id, const std::string& maker) {
    if (name.empty()) fail("{}: {} has no name.", path_, maker);
    if (!names_.emplace(name, id).second) {
      fail("{}: {} makes the value \"{}\", but that name is taken already.", path_, maker, name);
    }
  }

  void add_initializer(const TensorProto& tensor) {
    const std::string what = fmt::format("initializer \"{}\"", tensor.name);
    const ValueId id = graph_.add_constant(std::string(tensor.name), loader_.load(tensor, what));
    bind(tensor.name, id, what);
  }

  void add_input(const ValueInfo& info) {
    const std::string what = fmt::format("graph input \"{}\"", info.name);
    const auto known = names_.find(info.name);
    if (known != names_.end() && graph_.tensor(known->second) != nullptr) {
      return declare(info, "graph input");  // an initializer with a default value: a constant here
    }
    if (info.elem_type == 0 && info.is_tensor) fail("{}: {} has no element type.", path_, what);
    const ValueId id = graph_.add_value(std::string(info.name));
    bind(info.name, id, what);
    graph_.inputs.push_back(id);
    declare(info, "graph input");
  }

  // Takes over the declared type and shape of a value that exists.
  void declare(const ValueInfo& info, std::string_view kind) {
    const auto found = names_.find(info.name);
    if (found == names_.end()) return;  // of a value that was optimised away
    const std::string who = fmt::format("{}: {} \"{}\"", path_, kind, info.name);
    if (!info.is_tensor) fail("{} is no tensor, which is not supported.", who);
    graph::Value& value = graph_.values[static_cast<size_t>(found->second)];
    if (value.constant) return check_constant(info, value, who);
    if (info.elem_type != 0) value.dtype = dtype_of(info.elem_type, who);
    if (info.shape) value.shape = info.shape;
  }

  // What is declared of a constant must be what it is.
  static void check_constant(const ValueInfo& info, const graph::Value& value,
                             const std::string& who) {
    if (info.elem_type != 0 && dtype_of(info.elem_type, who) != value.dtype) {
      fail("{} is declared {}, but the initializer of that name is {}.", who,
           graph::dtype_name(dtype_of(info.elem_type, who)), graph::dtype_name(value.dtype));
    }
    if (!info.shape || !value.shape) return;
    // onnxruntime-genai declares lists of one number as scalars.
    if (info.shape->empty() && graph::element_count(*value.shape) == 1) return;
    const bool matches =
        std::equal(info.shape->begin(), info.shape->end(), value.shape->begin(), value.shape->end(),
                   [](int64_t a, int64_t b) { return a < 0 || a == b; });
    if (!matches) {
      fail("{} is declared with shape {}, but the initializer of that name has shape {}.", who,
           graph::to_string(*info.shape), graph::to_string(*value.shape));
    }
  }

  void add_output(const ValueInfo& info) {
    const auto found = names_.find(info.name);
    if (found == names_.end()) {
      fail("{}: graph output \"{}\" is made by no node.", path_, info.name);
    }
    const auto& outputs = graph_.outputs;
    if (std::find(outputs.begin(), outputs.end(), found->second) != outputs.end()) {
      fail("{}: graph output \"{}\" is listed twice.", path_, info.name);
    }
    declare(info, "graph output");
    graph_.outputs.push_back(found->second);
  }

  std::string describe(const NodeProto& node) const {
    return fmt::format("node \"{}\" ({}{}{})", node.name, node.domain,
                       node.domain.empty() ? "" : ".", node.op_type);
  }

  void add_node(const NodeProto& proto) {
    const std::string who = describe(proto);
    if (proto.op_type.empty()) fail("{}: {} has no operator.", path_, who);
    const std::string_view domain = normal_domain(proto.domain);
    if (domain == graph::kNibbleDomain) {
      fail("{}: {} is of the domain \"{}\", which no file may use.", path_, who, domain);
    }
    if (opsets_.find(domain) == opsets_.end()) {
      fail("{}: {} is of the domain \"{}\", but the model does not say which version of it.", path_,
           who, domain);
    }
    if (domain.empty() && proto.op_type == "Constant") return add_constant_node(proto, who);
    if (domain.empty() && proto.op_type == "If") return add_branch(proto, who);

    graph::Node node;
    node.op = proto.op_type;
    node.domain = domain;
    node.name = proto.name;
    for (const auto name : proto.inputs) node.inputs.push_back(find_input(name, who));
    for (const AttributeProto& attribute : proto.attributes) {
      const std::string key(attribute.name);
      if (!node.attributes.emplace(key, convert(attribute, who)).second) {
        fail("{}: {} has the attribute \"{}\" twice.", path_, who, key);
      }
    }
    for (const auto name : proto.outputs) {
      ValueId id = graph::kNoValue;
      if (!name.empty()) {
        id = graph_.add_value(std::string(name));
        bind(name, id, who);
      }
      node.outputs.push_back(id);
    }
    graph_.nodes.push_back(std::move(node));
  }

  void add_nodes(const std::vector<NodeProto>& nodes) {
    for (const size_t i : node_order(nodes)) add_node(nodes[i]);
  }

  void note_produced(const GraphProto& proto) {
    for (const NodeProto& node : proto.nodes) {
      for (const auto name : node.outputs) produced_.insert(name);
    }
  }

  // Whether the branch that is taken when the condition is true belongs to the graph.
  bool takes_then(const NodeProto& proto, const std::string& who) {
    if (proto.inputs.size() != 1) {
      fail("{}: {} has {} inputs, but a condition is expected.", path_, who, proto.inputs.size());
    }
    const ValueId condition = find_input(proto.inputs.front(), who);
    const graph::Value& value = graph_.values[static_cast<size_t>(condition)];
    if (const TensorData* tensor = graph_.tensor(condition)) {
      const std::vector<int64_t> values = graph::to_i64(*tensor);
      if (values.size() != 1) {
        fail("{}: {} has {} conditions, but one is expected.", path_, who, values.size());
      }
      return values.front() != 0;
    }
    const auto& inputs = graph_.inputs;
    if (std::find(inputs.begin(), inputs.end(), condition) == inputs.end() ||
        value.dtype != graph::DType::boolean) {
      fail(
          "{}: {} chooses a subgraph by \"{}\", which is computed, but a constant or a boolean "
          "input such as use_cache_branch is expected.",
          path_, who, graph_.value_name(condition));
    }
    conditions_.push_back(condition);
    return true;
  }

  // The branch becomes part of the graph; its names are bound like all others.
  void add_branch(const NodeProto& proto, const std::string& who) {
    constexpr int kMostDepth = 4;
    const std::string_view key = takes_then(proto, who) ? "then_branch" : "else_branch";
    const auto found =
        std::find_if(proto.attributes.begin(), proto.attributes.end(),
                     [&](const AttributeProto& a) { return a.name == key && a.g.has_value(); });
    if (found == proto.attributes.end()) {
      fail("{}: {} has no subgraph \"{}\".", path_, who, key);
    }
    if (++depth_ > kMostDepth) {
      fail("{}: {} is nested more than {} deep.", path_, who, kMostDepth);
    }
    const GraphProto branch = parse_subgraph(file_, *found->g);
    if (branch.has_sparse_initializer || !branch.inputs.empty() ||
        branch.outputs.size() != proto.outputs.size()) {
      fail("{}: {} has a \"{}\" with {} inputs and {} outputs, but 0 and {} are expected.", path_,
           who, key, branch.inputs.size(), branch.outputs.size(), proto.outputs.size());
    }
    note_produced(branch);
    for (const TensorProto& tensor : branch.initializers) add_initializer(tensor);
    add_nodes(branch.nodes);
    for (const ValueInfo& info : branch.value_infos) declare(info, "value");
    for (size_t i = 0; i < branch.outputs.size(); ++i) {
      const ValueId id = find_input(branch.outputs[i].name, who);
      if (proto.outputs[i] == branch.outputs[i].name || proto.outputs[i].empty()) continue;
      bind(proto.outputs[i], id, who);
      graph_.values[static_cast<size_t>(id)].name = std::string(proto.outputs[i]);
    }
    --depth_;
  }

  // Conditions that chose a branch and that nothing else uses are no inputs of the graph.
  void drop_conditions() {
    const auto users = graph::consumers(graph_);
    std::erase_if(graph_.inputs, [&](ValueId id) {
      return std::find(conditions_.begin(), conditions_.end(), id) != conditions_.end() &&
             users[static_cast<size_t>(id)].empty();
    });
  }

  ValueId find_input(std::string_view name, const std::string& who) const {
    if (name.empty()) return graph::kNoValue;
    const auto found = names_.find(name);
    if (found != names_.end()) return found->second;
    fail("{}: {} uses \"{}\", which {}.", path_, who, name,
         produced_.count(name) != 0 ? "no order of the nodes makes before"
                                    : "nothing in the model makes");
  }

  void add_constant_node(const NodeProto& proto, const std::string& who) {
    if (proto.outputs.size() != 1 || !proto.inputs.empty() || proto.attributes.size() != 1) {
      fail("{}: {} has {} inputs, {} attributes and {} outputs, but 0, 1 and 1 are expected.",
           path_, who, proto.inputs.size(), proto.attributes.size(), proto.outputs.size());
    }
    const AttributeProto& attribute = proto.attributes.front();
    Attribute value = convert(attribute, who);
    TensorData tensor;
    if (auto* t = std::get_if<TensorData>(&value); t && attribute.name == "value") {
      tensor = std::move(*t);
    } else if (auto* f = std::get_if<float>(&value); f && attribute.name == "value_float") {
      tensor = graph::make_f32({}, {*f});
    } else if (auto* i = std::get_if<int64_t>(&value); i && attribute.name == "value_int") {
      tensor = graph::make_i64({}, {*i});
    } else if (auto* fs = std::get_if<std::vector<float>>(&value);
               fs && attribute.name == "value_floats") {
      const auto count = static_cast<int64_t>(fs->size());
      tensor = graph::make_f32({count}, std::move(*fs));
    } else if (auto* is = std::get_if<std::vector<int64_t>>(&value);
               is && attribute.name == "value_ints") {
      const auto count = static_cast<int64_t>(is->size());
      tensor = graph::make_i64({count}, std::move(*is));
    } else {
      fail("{}: {} has the attribute \"{}\", but a value of numbers is expected.", path_, who,
           attribute.name);
    }
    const std::string_view name = proto.outputs.front();
    bind(name, graph_.add_constant(std::string(name), std::move(tensor)), who);
  }

  Attribute convert(const AttributeProto& attribute, const std::string& who) {
    const std::string what = fmt::format("{}, attribute \"{}\"", who, attribute.name);
    if (attribute.name.empty()) fail("{}: {} has an attribute without a name.", path_, who);
    if (!attribute.reference.empty()) {
      fail("{}: {} refers to the attribute \"{}\" of a function, but this is no function.", path_,
           what, attribute.reference);
    }
    check_payload(attribute, what);
    switch (attribute.type) {
      case AttributeProto::kFloat:
        return attribute.f.value_or(0.0F);
      case AttributeProto::kInt:
        return attribute.i.value_or(0);
      case AttributeProto::kString:
        return std::string(attribute.s.value_or(std::string_view{}));
      case AttributeProto::kTensor:
        if (!attribute.t) fail("{}: {} should be a tensor, but it has none.", path_, what);
        return loader_.load(*attribute.t, what);
      case AttributeProto::kFloats:
        return attribute.floats;
      case AttributeProto::kInts:
        return attribute.ints;
      default:
        break;
    }
    constexpr std::array<std::string_view, 15> kKinds = {
        "no kind at all",    "a float",         "an integer",     "a string", "a tensor",
        "a subgraph",        "floats",          "integers",       "strings",  "tensors",
        "several subgraphs", "a sparse tensor", "sparse tensors", "a type",   "types"};
    const bool known = attribute.type >= 0 && attribute.type < std::ssize(kKinds);
    fail("{}: {} holds {}, which is not supported.", path_, what,
         known ? kKinds[static_cast<size_t>(attribute.type)] : "an unknown kind");
  }

  // Only the field that the type names may hold something: anything else is damage. The type may
  // come without its field, which then is zero or empty.
  void check_payload(const AttributeProto& attribute, const std::string& what) const {
    const std::pair<int64_t, bool> payloads[] = {
        {AttributeProto::kFloat, attribute.f.has_value()},
        {AttributeProto::kInt, attribute.i.has_value()},
        {AttributeProto::kString, attribute.s.has_value()},
        {AttributeProto::kTensor, attribute.t != nullptr},
        {AttributeProto::kFloats, !attribute.floats.empty()},
        {AttributeProto::kInts, !attribute.ints.empty()}};
    for (const auto& [type, present] : payloads) {
      if (!present || type == attribute.type) continue;
      // Some writers fill the scalar fields of every attribute with zeros.
      if (type == AttributeProto::kFloat && *attribute.f == 0.0F) continue;
      if (type == AttributeProto::kInt && *attribute.i == 0) continue;
      if (type == AttributeProto::kString && attribute.s->empty()) continue;
      fail("{}: {} says it is of type {}, but it holds a value of type {}.", path_, what,
           attribute.type, type);
    }
  }

  const ModelProto& model_;
  const WireFile& file_;
  const std::string& path_;
  TensorLoader& loader_;
  Graph graph_;
  std::unordered_map<std::string_view, int64_t> opsets_;
  std::unordered_map<std::string_view, ValueId> names_;
  std::unordered_set<std::string_view> produced_;  // the outputs of all nodes
  std::vector<ValueId> conditions_;                // graph inputs that chose a branch
  int depth_ = 0;                                  // of subgraphs
};

}  // namespace

Graph build_graph(const ModelProto& model, const WireFile& file, TensorLoader& loader) {
  return Builder(model, file, loader).build();
}

}  // namespace nibble::frontends::onnx
