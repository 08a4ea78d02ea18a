package pocketrec

import java.io.File
import java.sql.Connection
import java.sql.DriverManager
import java.sql.PreparedStatement
import java.sql.SQLException

/** SQLite through JDBC, for tests and desktops. */
class JdbcDatabase(file: File) : SqlDatabase {
    private val connection: Connection = DriverManager.getConnection("jdbc:sqlite:$file")

    override fun execute(statement: String, vararg values: Any?): Int = run(statement, values) { it.executeUpdate() }

    override fun query(statement: String): List<List<Any?>> = run(statement, emptyArray()) { prepared ->
        if (!prepared.execute()) return@run emptyList()
        val rows = ArrayList<List<Any?>>()
        prepared.resultSet.use { result ->
            while (result.next()) {
                rows.add((1..result.metaData.columnCount).map { (result.getObject(it) as? Number)?.toLong() ?: result.getObject(it) })
            }
        }
        rows
    }

    override fun close(): Unit = connection.close()

    private fun <T> run(statement: String, values: Array<out Any?>, use: (PreparedStatement) -> T): T = try {
        connection.prepareStatement(statement).use { prepared ->
            values.forEachIndexed { index, value -> prepared.setObject(index + 1, value) }
            use(prepared)
        }
    } catch (error: SQLException) {
        throw HistoryException("the history cannot be used: ${error.message}.", "history-invalid", "", error)
    }
}
