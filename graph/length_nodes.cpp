#include "graph/length_nodes.h"

#include <algorithm>
#include <utility>

#include "jit/error.h"

namespace nibble::graph {

ValueId LengthNodes::add(const char* op, std::vector<ValueId> inputs,
                         std::map<std::string, Attribute> attributes) {
  const std::string name = fmt::format("nibble/length/{}_{}", op, graph_.values.size());
  const ValueId out = graph_.add_value(name);
  graph_.nodes.insert(graph_.nodes.begin() + static_cast<int64_t>(end_++),
                      Node{op, "", name, std::move(inputs), {out}, std::move(attributes)});
  return out;
}

ValueId LengthNodes::constant(TensorData tensor) {
  return graph_.add_constant(fmt::format("nibble/length/constant_{}", graph_.values.size()),
                             std::move(tensor));
}

ValueId LengthNodes::ints(std::vector<int64_t> values) {
  const auto count = static_cast<int64_t>(values.size());
  return constant(make_i64({count}, std::move(values)));
}

ValueId LengthNodes::scalar(int64_t value) {
  const ValueId id = constant(make_i64({}, {value}));
  keep(id);
  return id;
}

ValueId LengthNodes::length_vector() {
  return add("Gather", {add("Shape", {graph_.io.input_ids}), ints({1})}, {{"axis", int64_t{0}}});
}

ValueId LengthNodes::length_scalar() {
  return add("Gather", {add("Shape", {graph_.io.input_ids}), scalar(1)}, {{"axis", int64_t{0}}});
}

ValueId LengthNodes::vector_with_length(const std::vector<int64_t>& values,
                                        const std::vector<bool>& at) {
  if (std::find(at.begin(), at.end(), true) == at.end()) return ints(values);
  std::vector<ValueId> parts;
  for (size_t i = 0; i < values.size(); ++i) {
    parts.push_back(at[i] ? length_vector() : ints({values[i]}));
  }
  return add("Concat", std::move(parts), {{"axis", int64_t{0}}});
}

ValueId LengthNodes::positions(int64_t first) {
  const ValueId past = first == 0 ? length_scalar() : add("Add", {length_scalar(), scalar(first)});
  return add("Range", {scalar(first), past, scalar(1)});
}

ValueId LengthNodes::band_mask(const Array& like, const BandMask& mask) {
  const ValueId rows = add("Reshape", {positions(0), ints({-1, 1})});
  const ValueId distance = add("Sub", {rows, add("Reshape", {positions(0), ints({1, -1})})});
  ValueId seen = kNoValue;
  if (!mask.future) seen = add("Not", {add("Less", {distance, scalar(0)})});
  if (mask.window > 0) {
    const ValueId near = add("Less", {distance, scalar(mask.window)});
    seen = mask.future ? near : add("And", {seen, near});
  }
  ValueId out = kNoValue;
  if (like.kind == Array::Kind::boolean) {
    out = mask.seen != 0 ? seen : add("Not", {seen});
  } else if (like.kind == Array::Kind::i64) {
    out = add("Where", {seen, scalar(static_cast<int64_t>(mask.seen)),
                        scalar(static_cast<int64_t>(mask.hidden))});
  } else {
    out = add("Where",
              {seen, constant(make_f32({}, {mask.seen})), constant(make_f32({}, {mask.hidden}))});
  }
  std::vector<int64_t> shape(like.shape.size(), 1);
  std::vector<bool> at(shape.size(), false);
  at[at.size() - 1] = at[at.size() - 2] = true;
  return add("Reshape", {out, vector_with_length(shape, at)});
}

}  // namespace nibble::graph
