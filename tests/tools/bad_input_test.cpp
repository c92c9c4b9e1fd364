// Bad input of every kind: one clear message, exit code 1, and nothing half-written.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/npy.h"
#include "tests/support/sanitized.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using runtime::read_file;
using runtime::TemporaryFolder;

void expect_failure(const std::vector<std::string>& arguments, const std::string& part,
                    const Surroundings& around = {}) {
  SCOPED_TRACE(testing::PrintToString(arguments));
  const Outcome outcome = nibble(arguments, around);
  EXPECT_EQ(outcome.code, 1) << "signal " << outcome.signal << "\n" << outcome.err;
  EXPECT_EQ(outcome.messages(), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err << "\nlacks " << part;
}

// Must either work or fail with one message; a crash is neither.
void expect_answer(const std::vector<std::string>& arguments) {
  const Outcome outcome = nibble(arguments);
  EXPECT_TRUE(outcome.code == 0 || outcome.code == 1)
      << testing::PrintToString(arguments) << " signal " << outcome.signal << "\n"
      << outcome.err;
  if (outcome.code == 1) {
    EXPECT_EQ(outcome.messages(), 1) << outcome.err;
  }
}

class BadInput : public testing::Test {
 protected:
  // A copy of the bundled model to damage.
  std::string copy() {
    std::string target = folder_.path("model");
    fs::remove_all(target);
    fs::copy(demo_model(), target);
    fs::permissions(target, fs::perms::owner_all);
    return target;
  }
  std::string compiled() {
    std::string nib = folder_.path("tale.nib");
    EXPECT_EQ(nibble({"compile", demo_model(), "-o", nib}).code, 0);
    return nib;
  }
  void write(const std::string& path, const std::string& bytes) {
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
  }
  // The bundled model with its ModelProto changed by `change`; the path of the folder.
  template <typename Change>
  std::string changed(Change change) {
    const std::string model = copy();
    onnx::ModelProto proto;
    EXPECT_TRUE(proto.ParseFromString(read_file(model + "/model.onnx")));
    change(*proto.mutable_graph());
    write(model + "/model.onnx", proto.SerializeAsString());
    return model;
  }
  // run, with and without fusing, and compile: each fails with `part`, and compile leaves nothing.
  void expect_refused(const std::string& model, const std::string& part) {
    const std::string out = folder_.path("out.nib");
    expect_failure({"run", model, "--ids", "1,2", "-n", "1"}, part);
    expect_failure({"run", model, "--ids", "1,2", "-n", "1", "--no-fuse"}, part);
    expect_failure({"compile", model, "-o", out}, part);
    EXPECT_FALSE(fs::exists(out));
  }
  static onnx::TensorProto& initializer(onnx::GraphProto& graph, const std::string& name) {
    for (onnx::TensorProto& tensor : *graph.mutable_initializer()) {
      if (tensor.name() == name) return tensor;
    }
    throw std::runtime_error("no initializer " + name);
  }
  TemporaryFolder folder_;
};

TEST_F(BadInput, AnUnknownOperatorIsNamedWithItsNode) {
  const std::string model = changed([](onnx::GraphProto& graph) {
    for (onnx::NodeProto& node : *graph.mutable_node()) {
      if (node.op_type() != "Sigmoid") continue;
      node.set_op_type("Frobnicate");
      node.set_name("the_strange_node");
      return;
    }
  });
  expect_refused(model, "Frobnicate");
  expect_refused(model, "the_strange_node");
}

TEST_F(BadInput, ExternalDataOutsideTheModelsFolder) {
  for (const char* path : {"../model.onnx_data", "/etc/passwd", "a/../../model.onnx_data"}) {
    const std::string model = changed([&](onnx::GraphProto& graph) {
      auto& tensor = initializer(graph, "m.model.embed_tokens.weight");
      ASSERT_EQ(tensor.data_location(), onnx::TensorProto::EXTERNAL);
      for (auto& entry : *tensor.mutable_external_data()) {
        if (entry.key() == "location") entry.set_value(path);
      }
    });
    expect_refused(model, "m.model.embed_tokens.weight");
  }
}

TEST_F(BadInput, AWeightOfTheWrongShape) {
  const std::string model = changed([](onnx::GraphProto& graph) {
    auto& tensor = initializer(graph, "m.model.norm.weight");
    ASSERT_EQ(tensor.dims(0), 256);
    tensor.set_dims(0, 128);
    tensor.mutable_raw_data()->resize(tensor.raw_data().size() / 2);
  });
  const std::string out = folder_.path("out.nib");
  expect_failure({"run", model, "--ids", "1,2", "-n", "1"}, "m.model.norm.weight");
  expect_failure({"run", model, "--ids", "1,2", "-n", "1", "--no-fuse"}, "128");
  expect_failure({"compile", model, "-o", out}, "m.model.norm.weight");
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(BadInput, AWeightOfTheWrongType) {
  const std::string model = changed([](onnx::GraphProto& graph) {
    auto& tensor = initializer(graph, "m.model.norm.weight");
    tensor.set_data_type(onnx::TensorProto::STRING);
  });
  expect_refused(model, "m.model.norm.weight");
}

TEST_F(BadInput, ModelsThatAreNotThere) {
  const auto run = [&](const std::string& model) {
    return std::vector<std::string>{"run", model, "-p", "x", "-n", "1"};
  };
  expect_failure(run(folder_.path("nowhere.onnx")), "no such file");
  expect_failure(run(folder_.folder()), "no .onnx, no .nib, no .safetensors and no .gguf");
  expect_failure(run(folder_.write("model.txt", "x")), ".onnx, .nib, .safetensors or .gguf");
  expect_failure(run(folder_.write("model.onnx", "")), "model.onnx");
  expect_failure(run(folder_.write("model.nib", "")), "model.nib");
  expect_failure(run(folder_.folder()), "holds both");
}

TEST_F(BadInput, ATruncatedOnnx) {
  const std::string model = copy() + "/model.onnx";
  const std::string whole = read_file(model);
  for (const size_t part : {1, 5, 9, 14, 19}) {
    write(model, whole.substr(0, whole.size() * part / 20));
    expect_failure({"run", model, "-p", "x", "-n", "1"}, "model.onnx");
  }
}

TEST_F(BadInput, ABitFlippedOnnx) {
  const std::string model = copy() + "/model.onnx";
  const std::string whole = read_file(model);
  for (size_t i = 0; i < 12; ++i) {
    std::string flipped = whole;
    const size_t at = i * whole.size() / 12 + i * 7;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (i % 8)));
    write(model, flipped);
    expect_answer({"run", model, "-p", "x", "-n", "1", "--greedy"});
  }
}

TEST_F(BadInput, ExternalDataThatIsMissingOrShort) {
  const std::string model = copy();
  const std::string data = model + "/model.onnx_data", whole = read_file(data);
  write(data, whole.substr(0, whole.size() / 2));
  expect_failure({"run", model, "-p", "x"}, "model.onnx_data");
  fs::remove(data);
  expect_failure({"run", model, "-p", "x"}, "model.onnx_data");
  const std::string out = folder_.path("out.nib");
  expect_failure({"compile", model, "-o", out}, "model.onnx_data");
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(BadInput, ATruncatedOrBitFlippedNib) {
  const std::string nib = compiled(), whole = read_file(nib);
  for (const size_t part : {0, 1, 10, 19}) {
    write(nib, whole.substr(0, whole.size() * part / 20 + 10));
    expect_failure({"run", nib, "-p", "x", "-n", "1"}, "tale.nib");
  }
  for (size_t i = 0; i < 12; ++i) {
    std::string flipped = whole;
    const size_t at = i * (whole.size() - 1) / 11;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (i % 8)));
    write(nib, flipped);
    // Padding between sections carries no meaning, so a flip there may go unseen.
    expect_answer({"run", nib, "-p", "x", "-n", "1", "--greedy"});
  }
  std::string newer = whole;
  newer[8] = 99;
  write(nib, newer);
  expect_failure({"run", nib, "-p", "x"}, "tale.nib");
}

TEST_F(BadInput, ANibIsNotQuantizedAgain) {
  const std::string nib = compiled();
  const Outcome again = nibble({"compile", nib, "-o", folder_.path("again.nib")});
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("compiled already"), std::string::npos);
  const Outcome group = nibble({"run", nib, "-p", "x", "--group", "64"});
  EXPECT_EQ(group.code, 2);
  EXPECT_NE(group.err.find("--group"), std::string::npos);
}

TEST_F(BadInput, ATokenizerThatIsDamagedOrMissing) {
  const std::string model = copy();
  write(model + "/tokenizer.json", "{\"model\": {\"type\": \"Magic\"}}");
  expect_failure({"tokenize", model, "x"}, "Magic");
  expect_failure({"run", model, "-p", "x"}, "Magic");
  fs::remove(model + "/tokenizer.json");
  expect_failure({"run", model, "-p", "x"}, "--ids");
  expect_failure({"tokenize", model, "x"}, "tokenizer.json");
  expect_failure({"chat", model}, "no tokenizer.json, no tokenizer.model and no vocabulary");
  EXPECT_EQ(nibble({"run", model, "--ids", "0,5", "-n", "2", "--greedy"}).code, 0);
  expect_failure({"tokenize", demo_model(), "\xFF"}, "UTF-8");
}

TEST_F(BadInput, IdsOutOfRange) {
  expect_failure({"run", demo_model(), "--ids", "5,4096"}, "4096");
  expect_failure({"run", demo_model(), "--ids", "5,-1"}, "-1");
  const std::string ids = folder_.path("ids.npy"), out = folder_.path("logits.npy");
  for (const int64_t id : {int64_t{-1}, int64_t{4096}, int64_t{1} << 40}) {
    write_npy(ids, Npy<int64_t>{{1, 3}, {1, id, 2}});
    expect_failure({"logits", demo_model(), "--ids", ids, "-o", out}, std::to_string(id));
    EXPECT_FALSE(fs::exists(out));
  }
}

TEST_F(BadInput, MoreThanTheContextHolds) {
  expect_failure({"run", demo_model(), "-p", "x", "-n", "5000"}, "1024");
  expect_failure({"run", demo_model(), "--ids", "1,2,3,4", "-n", "1", "--context", "3"}, "3");
  expect_failure({"run", demo_model(), "-p", "x", "--context", "5000"}, "1024");
  const std::string ids = folder_.path("ids.npy"), out = folder_.path("logits.npy");
  write_npy(ids, Npy<int64_t>{{1, 1025}, std::vector<int64_t>(1025, 1)});
  expect_failure({"logits", demo_model(), "--ids", ids, "-o", out}, "1024");
  EXPECT_FALSE(fs::exists(out));
  expect_failure({"bench", demo_model(), "--prompt", "2000"}, "1024");
  // What was not asked for stops where it must, and says so.
  const Outcome full = nibble({"run", demo_model(), "--ids", "1,2,3", "--context", "8", "--greedy",
                               "--ignore-eos", "--json"});
  EXPECT_EQ(full.code, 0) << full.err;
  EXPECT_EQ(nlohmann::json::parse(full.out)["ids"].size(), 6U);
}

TEST_F(BadInput, NpyFilesOfAnotherKind) {
  const std::string path = folder_.path("ids.npy"), out = folder_.path("logits.npy");
  const auto expect = [&](const std::string& part) {
    expect_failure({"logits", demo_model(), "--ids", path, "-o", out}, part);
    EXPECT_FALSE(fs::exists(out));
  };
  expect("ids.npy");
  write(path, "not numpy");
  expect("no .npy file");
  write_npy(path, Npy<float>{{1, 2}, {1, 2}});
  expect("<i8");
  write_npy(path, Npy<int64_t>{{3}, {1, 2, 3}});
  expect("[batch, length]");
  write_npy(path, Npy<int64_t>{{1, 3}, {1, 2, 3}});
  const std::string whole = read_file(path);
  write(path, whole.substr(0, whole.size() - 1));
  expect("bytes of values");
  write(path, whole.substr(0, 20));
  expect("ends within its header");
  std::string fortran = whole;
  fortran.replace(fortran.find("False"), 5, "True ");
  write(path, fortran);
  expect("C order");
}

TEST_F(BadInput, OutputThatCannotBeWritten) {
  const std::string ids = folder_.path("ids.npy");
  write_npy(ids, Npy<int64_t>{{1, 3}, {1, 2, 3}});
  const std::string nowhere = folder_.path("missing/folder/out");
  expect_failure({"compile", demo_model(), "-o", nowhere}, "missing/folder");
  expect_failure({"logits", demo_model(), "--ids", ids, "-o", nowhere}, "missing/folder");
  expect_failure({"compile", demo_model(), "-o", folder_.folder()}, folder_.folder());
  EXPECT_EQ(folder_.entries(), 1);  // the ids
}

TEST_F(BadInput, AnIsaThatTheMachineLacks) {
  Surroundings around;
  around.environment = {{"NIBBLE_ISA", "avx99"}};
  expect_failure({"run", demo_model(), "-p", "x"}, "avx99", around);
}

TEST_F(BadInput, NoMemory) {
  if (sanitized()) GTEST_SKIP() << "AddressSanitizer needs the address space";
  const std::string out = folder_.path("big.nib");
  Surroundings around;
  around.memory_limit = size_t{160} << 20;
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"compile", "--shape", "tinyllama-1.1b", "--weights", "f32", "-o",
                                 out, "--threads", "1"},
        std::vector<std::string>{"bench", "--shape", "tinyllama-1.1b", "--threads", "1"}}) {
    const Outcome outcome = nibble(arguments, around);
    EXPECT_EQ(outcome.code, 1) << "signal " << outcome.signal << "\n" << outcome.err;
    EXPECT_EQ(outcome.messages(), 1) << outcome.err;
    EXPECT_FALSE(fs::exists(out));
    EXPECT_EQ(folder_.entries(), 0);
  }
}

}  // namespace
}  // namespace nibble::test
