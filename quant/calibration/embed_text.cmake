# cmake -DINPUT=FILE -DOUTPUT=FILE -P embed_text.cmake: the bytes of INPUT as C++ character
# literals, to be included between the braces of an array of char.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" lines "${hex}")  # 16 a line
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," literals "${lines}")
file(WRITE ${OUTPUT} "${literals}\n")
