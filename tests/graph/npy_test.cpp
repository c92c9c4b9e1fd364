#include "tests/support/npy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "jit/error.h"

namespace nibble::test {
namespace {

class NpyFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("nibble_npy_" + std::to_string(::getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "a.npy").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void put(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  std::filesystem::path folder_;
  std::string path_;
};

TEST_F(NpyFile, RoundTrips) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {1, 1, 1}}) {
    write_npy(path_, Npy<float>{shape, {2.5F}});
    const Npy<float> back = read_npy_f32(path_);
    EXPECT_EQ(back.shape, shape);
    EXPECT_EQ(back.values, std::vector<float>{2.5F});
  }
  write_npy(path_, Npy<int64_t>{{2, 3}, {1, 2, 3, 4, 5, -6}});
  const Npy<int64_t> back = read_npy_i64(path_);
  EXPECT_EQ(back.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(back.values, (std::vector<int64_t>{1, 2, 3, 4, 5, -6}));
  EXPECT_EQ(bytes().find('\n') % 64, 63U);  // the data begin at a multiple of 64 bytes
}

TEST_F(NpyFile, RefusesDamage) {
  write_npy(path_, Npy<float>{{2, 2}, {1, 2, 3, 4}});
  EXPECT_THROW(read_npy_i64(path_), Error);
  EXPECT_THROW(read_npy_f32(path_ + "x"), Error);
  const std::string whole = bytes();
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    put(whole.substr(0, cut));
    EXPECT_THROW(read_npy_f32(path_), Error) << "cut at " << cut;
  }
  put(whole + "more");
  EXPECT_THROW(read_npy_f32(path_), Error);
  std::string fortran = whole;
  fortran.replace(fortran.find("False"), 5, "True ");
  put(fortran);
  EXPECT_THROW(read_npy_f32(path_), Error);
  std::string huge = whole;
  huge.replace(huge.find("(2, 2)"), 6, "(99, 9)");
  put(huge);
  EXPECT_THROW(read_npy_f32(path_), Error);
}

}  // namespace
}  // namespace nibble::test
