/*
 * grpc_null.cc - the reference of bench_rpc: null calls over gRPC C++, asynchronous at both ends, TLS with
 * client certificates, messages as long as ours. No protobuf: byte buffers through the generic service.
 *
 *	grpc_null server CRT KEY CA                                prints its port, serves until killed
 *	grpc_null client CRT KEY CA PORT CONNECTIONS IN-FLIGHT SECONDS   prints calls per second
 */
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

const char call_bytes[40] = {0}, reply_bytes[24] = {0};

std::string read_file(const char *path)
{
	std::ostringstream text;
	text << std::ifstream(path).rdbuf();
	return text.str();
}

grpc::ByteBuffer message(const char *bytes, size_t len)
{
	grpc::Slice slice(bytes, len);
	return grpc::ByteBuffer(&slice, 1);
}

/* One call at the server: accepted, read, answered, and then the next one's. */
struct Serving {
	grpc::AsyncGenericService *service;
	grpc::ServerCompletionQueue *queue;
	std::unique_ptr<grpc::GenericServerContext> context;
	std::unique_ptr<grpc::GenericServerAsyncReaderWriter> stream;
	grpc::ByteBuffer request;
	enum { ACCEPTED, READ, DONE } next = ACCEPTED;

	void await()
	{
		context = std::make_unique<grpc::GenericServerContext>();
		stream = std::make_unique<grpc::GenericServerAsyncReaderWriter>(context.get());
		next = ACCEPTED;
		service->RequestCall(context.get(), stream.get(), queue, queue, this);
	}

	void go_on(bool ok)
	{
		if (!ok || next == DONE) {
			await();
		} else if (next == ACCEPTED) {
			next = READ;
			stream->Read(&request, this);
		} else {
			next = DONE;
			stream->WriteAndFinish(message(reply_bytes, sizeof reply_bytes), grpc::WriteOptions(), grpc::Status::OK,
			                       this);
		}
	}
};

int serve(char **file)
{
	grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
	ssl.pem_key_cert_pairs.push_back({ read_file(file[1]), read_file(file[0]) });
	ssl.pem_root_certs = read_file(file[2]);
	grpc::AsyncGenericService service;
	grpc::ServerBuilder builder;
	int port = 0;
	builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(ssl), &port);
	builder.RegisterAsyncGenericService(&service);
	auto queue = builder.AddCompletionQueue();
	auto server = builder.BuildAndStart();
	std::vector<Serving> calls(2048);
	for (auto &c : calls) {
		c.service = &service;
		c.queue = queue.get();
		c.await();
	}
	std::printf("%d\n", port);
	std::fflush(stdout);
	void *tag;
	bool ok;
	while (queue->Next(&tag, &ok))
		static_cast<Serving *>(tag)->go_on(ok);
	return 0;
}

struct Calling {
	grpc::GenericStub *stub;
	std::unique_ptr<grpc::ClientContext> context;
	std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
	grpc::ByteBuffer reply;
	grpc::Status status;

	void call(grpc::CompletionQueue *queue)
	{
		context = std::make_unique<grpc::ClientContext>();
		reader = stub->PrepareUnaryCall(context.get(), "/qkdn.Bench/Null", message(call_bytes, sizeof call_bytes),
		                                queue);
		reader->StartCall();
		reader->Finish(&reply, &status, this);
	}
};

int call(char **file, const char *port, int connections, int in_flight, double seconds)
{
	grpc::SslCredentialsOptions ssl{ read_file(file[2]), read_file(file[1]), read_file(file[0]) };
	grpc::CompletionQueue queue;
	std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
	for (int i = 0; i < connections; i++) {
		grpc::ChannelArguments arguments;
		arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* a connection of its own */
		stubs.push_back(std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(
		        std::string("127.0.0.1:") + port, grpc::SslCredentials(ssl), arguments)));
	}
	std::vector<Calling> calls(static_cast<size_t>(connections * in_flight));
	for (size_t i = 0; i < calls.size(); i++) {
		calls[i].stub = stubs[i % stubs.size()].get();
		calls[i].call(&queue);
	}
	unsigned long done = 0, warm = 10 * calls.size();
	auto begun = std::chrono::steady_clock::now();
	void *tag;
	bool ok;
	while (queue.Next(&tag, &ok)) {
		auto *c = static_cast<Calling *>(tag);
		if (!c->status.ok()) {
			std::fprintf(stderr, "grpc_null: %s\n", c->status.error_message().c_str());
			return 1;
		}
		if (++done == warm)
			begun = std::chrono::steady_clock::now();
		double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
		if (done > warm && took >= seconds) {
			std::printf("%.0f\n", static_cast<double>(done - warm) / took);
			std::fflush(stdout);
			std::_Exit(0);
		}
		c->call(&queue);
	}
	return 1;
}

} // namespace

int main(int argc, char **argv)
{
	if (argc == 5 && std::string(argv[1]) == "server")
		return serve(argv + 2);
	if (argc == 9 && std::string(argv[1]) == "client")
		return call(argv + 2, argv[5], std::atoi(argv[6]), std::atoi(argv[7]), std::atof(argv[8]));
	std::fprintf(stderr, "usage: grpc_null server CRT KEY CA | client CRT KEY CA PORT CONNECTIONS IN-FLIGHT SECONDS\n");
	return 1;
}
