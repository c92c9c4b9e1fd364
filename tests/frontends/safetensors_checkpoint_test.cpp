// Folders: one file, shards by their index, links as caches have them, and paths that lead out.
#include <gtest/gtest.h>

#include <filesystem>

#include "frontends/safetensors/open_checkpoint.h"
#include "jit/error.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using frontends::decoder::Checkpoint;
using frontends::safetensors::open_checkpoint;
using runtime::TemporaryFolder;

constexpr const char* kIndex = "model.safetensors.index.json";

std::string one_tensor(const std::string& name, float value) {
  test::SafetensorsWriter writer;
  writer.add(name, {1}, {value});
  return writer.bytes();
}

std::string opening_error(const std::string& path) {
  try {
    open_checkpoint(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void expect_complaint(const std::string& path, const std::string& part) {
  const std::string message = opening_error(path);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n  expected: " << part;
}

TEST(SafetensorsCheckpoint, ShardsAreFoundByTheIndex) {
  const TemporaryFolder folder;
  folder.write("one.safetensors", one_tensor("a", 1));
  folder.write("two.safetensors", one_tensor("b", 2));
  folder.write(kIndex, R"({"metadata":{"total_size":8,"x":[1,{"weight_map":2}]},)"
                       R"("weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  for (const std::string& path : {folder.folder(), folder.path("two.safetensors")}) {
    Checkpoint checkpoint = open_checkpoint(path);
    EXPECT_EQ(graph::to_f32(checkpoint.take("b")), std::vector<float>{2});
    EXPECT_EQ(checkpoint.untaken(), std::vector<std::string>{"a"});
    EXPECT_THROW(checkpoint.take("c"), Error);
  }
}

TEST(SafetensorsCheckpoint, WhatIsMissingIsNamed) {
  const TemporaryFolder folder;
  expect_complaint(folder.folder(), "0 .safetensors files");
  folder.write("one.safetensors", one_tensor("a", 1));
  EXPECT_EQ(opening_error(folder.folder()), "");
  folder.write("two.safetensors", one_tensor("b", 1));
  expect_complaint(folder.folder(), "2 .safetensors files");
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})");
  expect_complaint(folder.folder(), "tensor 'c' should be in the shard \"one.safetensors\"");
  folder.write(kIndex, R"({"weight_map":{"a":"three.safetensors"}})");
  expect_complaint(folder.folder(), "shard \"three.safetensors\" cannot be opened");
  folder.write("three.safetensors", one_tensor("a", 1));
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors","d":"three.safetensors"}})");
  expect_complaint(folder.folder(), "'a' is in another shard too");
}

TEST(SafetensorsCheckpoint, IndexesThatLieAreNamed) {
  const TemporaryFolder folder;
  folder.write("one.safetensors", one_tensor("a", 1));
  const std::pair<const char*, const char*> lies[] = {
      {"", "not valid JSON"},
      {"[]", "names no tensor"},
      {R"({"weight_map":{}})", "names no tensor"},
      {R"({"weight_map":{"a":1}})", "'a' has a number"},
      {R"({"weight_map":{"a":["one.safetensors"]}})", "'a' has an array"},
      {R"({"weight_map":{"a":{"b":"one.safetensors"}}})", "'a' has an object"},
      {R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})", "'a' twice"},
      {R"({"weight_map":{"a":"one.safetensors"},"weight_map":{}})", "weight_map comes twice"},
      {R"({"weight_map":{"a":""}})", "relative to the index"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "relative to the index"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", "may leave"},
      {R"({"weight_map":{"a":"x/../../one.safetensors"}})", "may leave"},
      {R"({"weight_map":{"a":"."}})", "not a regular file"},
  };
  for (const auto& [index, complaint] : lies) {
    folder.write(kIndex, index);
    expect_complaint(folder.folder(), complaint);
  }
}

TEST(SafetensorsCheckpoint, LinksMayLeadWhereTheIndexReallyIs) {
  const TemporaryFolder folder;
  folder.write("blobs/1", R"({"weight_map":{"a":"one.safetensors"}})");
  folder.write("blobs/2", one_tensor("a", 1));
  folder.write("elsewhere/3", one_tensor("a", 1));
  fs::create_directories(folder.path("snapshots/x"));
  fs::create_symlink("../../blobs/1", folder.path("snapshots/x/" + std::string(kIndex)));
  const fs::path shard = folder.path("snapshots/x/one.safetensors");
  fs::create_symlink("../../blobs/2", shard);
  EXPECT_EQ(opening_error(folder.path("snapshots/x")), "");
  fs::remove(shard);
  fs::create_symlink("../../elsewhere/3", shard);
  expect_complaint(folder.path("snapshots/x"), "outside the model's folder");
}

}  // namespace
}  // namespace nibble
