// Prints the partitions that Go's Kafka clients give to keys: the first
// argument is the client's balancer, standard input has a key on each line.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
)

var counts = []int{1, 3, 8, 12, 100}

type partitioner func(key []byte, count int) int

func kafkaGo(balancer kafka.Balancer) partitioner {
	return func(key []byte, count int) int {
		partitions := make([]int, count)
		for number := range partitions {
			partitions[number] = number
		}
		return balancer.Balance(kafka.Message{Key: key}, partitions...)
	}
}

func saramaHash(key []byte, count int) int {
	message := &sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}
	partition, err := sarama.NewHashPartitioner("").Partition(message, int32(count))
	if err != nil {
		log.Fatal(err)
	}
	return int(partition)
}

func main() {
	partitioners := map[string]partitioner{
		"murmur2-kafka-go": kafkaGo(kafka.Murmur2Balancer{Consistent: true}),
		"fnv1a-kafka-go":   kafkaGo(&kafka.Hash{}),
		"fnv1a-sarama":     saramaHash,
		"crc32-kafka-go":   kafkaGo(kafka.CRC32Balancer{Consistent: true}),
	}
	partition, known := partitioners[os.Args[1]]
	if !known {
		log.Fatalf("no partitioner %s", os.Args[1])
	}
	lines := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for lines.Scan() {
		key := lines.Bytes()
		fmt.Fprintf(out, "%s", key)
		for _, count := range counts {
			fmt.Fprintf(out, "\t%d", partition(key, count))
		}
		fmt.Fprintln(out)
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
